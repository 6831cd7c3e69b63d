//! Whether a child is as it is wanted, and where not. Pure.

use crate::quantity::quantity;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

/// Where the live object differs from the wanted one, such as `spec.replicas`. `None`: an apply would change nothing.
///
/// What others added (fields, labels, entries of lists that Kubernetes takes for maps) is theirs and no difference.
pub(super) fn difference(wanted: &DynamicObject, live: &DynamicObject) -> Option<String> {
    let missing = |wanted: &std::collections::BTreeMap<String, String>,
                   live: &std::collections::BTreeMap<String, String>| {
        let mut wanted = wanted.iter();
        wanted
            .find(|(key, value)| live.get(*key) != Some(*value))
            .map(|(key, _)| key.clone())
    };
    if let Some(key) = missing(wanted.labels(), live.labels()) {
        return Some(format!("metadata.labels[{key}]"));
    }
    if let Some(key) = missing(wanted.annotations(), live.annotations()) {
        return Some(format!("metadata.annotations[{key}]"));
    }
    let mut owners = wanted.owner_references().iter();
    if !owners.all(|owner| live.owner_references().contains(owner)) {
        return Some("metadata.ownerReferences".to_owned());
    }
    differs(&live.data, &wanted.data, "")
}

/// The first place at which `live` has not what is wanted.
fn differs(live: &Value, wanted: &Value, path: &str) -> Option<String> {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().find_map(|(key, value)| {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match live.get(key) {
                Some(live) => differs(live, value, &path),
                None => Some(path),
            }
        }),
        (Value::Array(live), Value::Array(wanted)) => match keys_of(path, wanted) {
            Some(keys) => wanted.iter().find_map(|wanted| {
                let same = |live: &&Value| keys.iter().all(|key| live.get(key) == wanted.get(key));
                let entry = format!("{path}[{}]", key_text(keys, wanted));
                match live.iter().find(same) {
                    Some(live) => differs(live, wanted, &entry),
                    None => Some(entry),
                }
            }),
            None if live.len() != wanted.len() => Some(path.to_owned()),
            None => {
                let mut pairs = live.iter().zip(wanted).enumerate();
                pairs.find_map(|(index, (live, wanted))| {
                    differs(live, wanted, &format!("{path}[{index}]"))
                })
            }
        },
        (Value::String(live), Value::String(wanted)) => {
            let same =
                live == wanted || quantity(live).is_some_and(|live| Some(live) == quantity(wanted));
            (!same).then(|| path.to_owned())
        }
        _ => (live != wanted).then(|| path.to_owned()),
    }
}

/// The keys of a list that Kubernetes takes for a map; its entries have no order, and others may add some.
///
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>
fn keys_of(path: &str, entries: &[Value]) -> Option<&'static [&'static str]> {
    let keys: &[&str] = match path.rsplit('.').next().unwrap_or_default() {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "ports" if path.contains("containers[") => &["containerPort", "protocol"],
        "ports" => &["port", "protocol"],
        _ => return None,
    };
    let has_all = |entry: &Value| keys.iter().all(|key| entry.get(key).is_some());
    entries.iter().all(has_all).then_some(keys)
}

fn key_text(keys: &[&str], entry: &Value) -> String {
    let texts = keys.iter().map(|key| match &entry[*key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    texts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(data: Value) -> DynamicObject {
        serde_json::from_value(data).unwrap()
    }

    fn between(wanted: Value, live: Value) -> Option<String> {
        difference(&object(wanted), &object(live))
    }

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        let wanted = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}});
        let live = json!({"metadata": {"name": "a", "labels": {"theirs": "x"}},
            "spec": {"replicas": 1, "revisionHistoryLimit": 10}, "status": {"replicas": 1}});
        assert_eq!(between(wanted, live), None);
    }

    #[test]
    fn quantities_as_the_api_server_writes_them_are_no_difference() {
        let limits = |cpu: &str, memory: &str| json!({"metadata": {}, "limits": {"cpu": cpu, "memory": memory}});
        assert_eq!(
            between(limits("0.5", "1024Mi"), limits("500m", "1Gi")),
            None
        );
        let cpu = Some("limits.cpu".to_owned());
        assert_eq!(between(limits("0.6", "1Gi"), limits("500m", "1Gi")), cpu);
        let memory = Some("limits.memory".to_owned());
        assert_eq!(between(limits("500m", "1G"), limits("500m", "1Gi")), memory);
        assert_eq!(between(limits("1000m", "1Gi"), limits("1", "1Gi")), None);
        assert_eq!(between(limits("a", "1Gi"), limits("b", "1Gi")), cpu);
    }

    #[test]
    fn what_others_add_to_a_list_that_is_a_map_is_theirs() {
        let service = |ports: Value| json!({"metadata": {}, "spec": {"ports": ports}});
        let ours = json!({"port": 80, "protocol": "TCP", "targetPort": "http"});
        let theirs = json!({"port": 443, "protocol": "TCP", "targetPort": "tls"});
        assert_eq!(
            between(service(json!([ours])), service(json!([theirs, ours]))),
            None
        );
        let mut changed = ours.clone();
        changed["targetPort"] = json!("tls");
        let port = Some("spec.ports[80/TCP].targetPort".to_owned());
        assert_eq!(
            between(service(json!([ours])), service(json!([changed]))),
            port
        );
        let missing = Some("spec.ports[80/TCP]".to_owned());
        assert_eq!(
            between(service(json!([ours])), service(json!([theirs]))),
            missing
        );
    }

    #[test]
    fn a_container_beside_ours_is_no_difference_and_its_place_does_not_matter() {
        let pod = |containers: Value| json!({"metadata": {}, "spec": {"containers": containers}});
        let ours = json!({"name": "server", "image": "server:1"});
        let proxy = json!({"name": "mesh-proxy", "image": "proxy:1"});
        assert_eq!(between(pod(json!([ours])), pod(json!([proxy, ours]))), None);
        let drifted = json!({"name": "server", "image": "server:2"});
        let image = Some("spec.containers[server].image".to_owned());
        assert_eq!(
            between(pod(json!([ours])), pod(json!([proxy, drifted]))),
            image
        );
    }

    #[test]
    fn an_entry_more_in_an_atomic_list_is_a_difference() {
        let role = |rules: Value| json!({"metadata": {}, "rules": rules});
        let rules = Some("rules".to_owned());
        assert_eq!(
            between(
                role(json!([{"verbs": ["get"]}])),
                role(json!([{"verbs": ["get"]}, {"verbs": ["*"]}]))
            ),
            rules
        );
        let verbs = Some("rules[0].verbs".to_owned());
        assert_eq!(
            between(
                role(json!([{"verbs": ["get"]}])),
                role(json!([{"verbs": ["get", "*"]}]))
            ),
            verbs
        );
    }

    #[test]
    fn labels_and_owners_are_compared() {
        let labelled = |value: &str| json!({"metadata": {"labels": {"a": value}}});
        assert_eq!(
            between(labelled("1"), labelled("2")),
            Some("metadata.labels[a]".to_owned())
        );
        let owner = json!({"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "blockOwnerDeletion": true});
        let owned = json!({"metadata": {"ownerReferences": [owner]}});
        assert_eq!(
            between(owned, json!({"metadata": {}})),
            Some("metadata.ownerReferences".to_owned())
        );
    }
}
