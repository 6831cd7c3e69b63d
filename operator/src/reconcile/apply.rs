//! Makes the children what they should be: server-side apply of what differs, deletion of what is no longer wanted.

use super::dereference::{Existing, kind_of};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Owner of the fields that the operator sets.
pub(super) const FIELD_MANAGER: &str = "zimage-operator";
/// Annotation with the hash of what was applied last: tells that a field was taken out of what is wanted.
const APPLIED: &str = "zimage.dev/applied";

/// Applies every child that is not yet as wanted and returns all as they are then.
///
/// # Errors
/// The API server's refusal of the first child that it refuses.
pub(super) async fn apply(
    client: &Client,
    wanted: Vec<DynamicObject>,
    existing: &Existing,
) -> Result<Vec<Arc<DynamicObject>>, kube::Error> {
    let mut applied = Vec::with_capacity(wanted.len());
    for mut child in wanted {
        mark(&mut child);
        match existing.same_as(&child) {
            Some(live) if is_as_wanted(&child, live) => applied.push(Arc::clone(live)),
            _ => applied.push(Arc::new(apply_one(client, &child).await?)),
        }
    }
    Ok(applied)
}

/// Deletes the children that are not among `wanted`.
///
/// # Errors
/// The API server's refusal.
pub(super) async fn prune(
    client: &Client,
    wanted: &[Arc<DynamicObject>],
    existing: &Existing,
) -> Result<(), kube::Error> {
    for child in &existing.children {
        let wanted = wanted
            .iter()
            .any(|other| other.types == child.types && other.name_any() == child.name_any());
        if wanted || child.metadata.deletion_timestamp.is_some() {
            continue;
        }
        // The cache may be behind: an object of the same name that someone made since is not ours to delete.
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: child.uid(),
            resource_version: None,
        });
        match api(client, child)
            .delete(&child.name_any(), &parameters)
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            other => drop(other?),
        }
        tracing::info!(kind = kind_name(child), name = child.name_any(), "deleted");
    }
    Ok(())
}

/// What differs between the children and those that are wanted, in words. `None`: nothing.
pub(super) fn differences(wanted: Vec<DynamicObject>, existing: &Existing) -> Option<String> {
    const SHOWN: usize = 3;
    let describe = |child: &DynamicObject| format!("{} {}", kind_name(child), child.name_any());
    let mut names = Vec::new();
    let mut known = Vec::new();
    for mut child in wanted {
        mark(&mut child);
        let live = existing.same_as(&child);
        if !live.is_some_and(|live| is_as_wanted(&child, live)) {
            names.push(describe(&child));
        }
        known.extend(live.cloned());
    }
    let surplus = existing
        .children
        .iter()
        .filter(|child| !known.contains(child) && child.metadata.deletion_timestamp.is_none());
    names.extend(surplus.map(|child| describe(child)));
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let shown = names.join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (_, 0) => Some(shown),
        (_, more) => Some(format!("{shown} and {more} more")),
    }
}

async fn apply_one(client: &Client, child: &DynamicObject) -> Result<DynamicObject, kube::Error> {
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let live = api(client, child)
        .patch(&child.name_any(), &parameters, &Patch::Apply(child))
        .await?;
    tracing::info!(kind = kind_name(child), name = child.name_any(), "applied");
    Ok(live)
}

/// # Panics
/// For a kind that is not a child's; `build` makes no other.
fn api(client: &Client, child: &DynamicObject) -> Api<DynamicObject> {
    let kind = kind_of(child).expect("a child is of one of the known kinds");
    Api::namespaced_with(
        client.clone(),
        &child.namespace().unwrap_or_default(),
        &kind,
    )
}

fn kind_name(child: &DynamicObject) -> &str {
    child.types.as_ref().map_or("?", |types| &types.kind)
}

fn mark(child: &mut DynamicObject) {
    let mut hash = Sha256::new();
    for part in [
        serde_json::to_vec(&child.metadata),
        serde_json::to_vec(&child.data),
    ] {
        hash.update(part.unwrap_or_default());
    }
    let hash: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    child.annotations_mut().insert(APPLIED.to_owned(), hash);
}

/// Whether an apply would change nothing: everything wanted is there, and the same was applied last.
fn is_as_wanted(wanted: &DynamicObject, live: &DynamicObject) -> bool {
    let metadata = |object: &DynamicObject| {
        (
            object.labels().clone(),
            object.annotations().clone(),
            object.owner_references().to_vec(),
        )
    };
    let ((labels, annotations, owners), (live_labels, live_annotations, live_owners)) =
        (metadata(wanted), metadata(live));
    labels
        .iter()
        .all(|(key, value)| live_labels.get(key) == Some(value))
        && annotations
            .iter()
            .all(|(key, value)| live_annotations.get(key) == Some(value))
        && owners.iter().all(|owner| live_owners.contains(owner))
        && contains(&live.data, &wanted.data)
}

/// Whether `live` has all of `wanted`; what the API server or others added does not count.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).is_some_and(|live| contains(live, value))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && wanted
                    .iter()
                    .zip(live)
                    .all(|(wanted, live)| contains(live, wanted))
        }
        (Value::String(live), Value::String(wanted)) => {
            live == wanted || quantity(live).is_some_and(|live| Some(live) == quantity(wanted))
        }
        _ => live == wanted,
    }
}

/// The value of a quantity such as `500m`, `0.5` or `1Gi`: the API server writes it its own way.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/definitions/quantity-resource-definition/>
fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.'));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    Some(match suffix {
        // Divided: 0.001 has no exact form.
        "m" => number / 1e3,
        "" => number,
        "k" => number * 1e3,
        "M" => number * 1e6,
        "G" => number * 1e9,
        "T" => number * 1e12,
        "Ki" => number * 1024.0,
        "Mi" => number * 1024_f64.powi(2),
        "Gi" => number * 1024_f64.powi(3),
        "Ti" => number * 1024_f64.powi(4),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(data: Value) -> DynamicObject {
        serde_json::from_value(data).unwrap()
    }

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        let mut wanted = object(json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}));
        mark(&mut wanted);
        let mut live = wanted.clone();
        live.data["spec"]["revisionHistoryLimit"] = json!(10);
        live.data["status"] = json!({"replicas": 1});
        assert!(is_as_wanted(&wanted, &live));
    }

    #[test]
    fn quantities_as_the_api_server_writes_them_are_no_difference() {
        let resources = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let live = resources("500m", "1Gi");
        assert!(contains(&live, &resources("0.5", "1024Mi")));
        assert!(!contains(&live, &resources("0.6", "1Gi")));
        assert!(!contains(&live, &resources("500m", "1G")));
        assert!(contains(&json!("1"), &json!("1000m")));
        assert!(!contains(&json!("a"), &json!("b")));
    }

    #[test]
    fn a_changed_field_and_a_foreign_list_entry_are_differences() {
        let mut wanted = object(json!({"spec": {"ports": [{"port": 80}]}}));
        mark(&mut wanted);
        let mut live = wanted.clone();
        live.data["spec"]["ports"][0]["port"] = json!(81);
        assert!(!is_as_wanted(&wanted, &live));
        live.data["spec"]["ports"] = json!([{"port": 80}, {"port": 443}]);
        assert!(!is_as_wanted(&wanted, &live));
    }

    #[test]
    fn a_field_that_is_no_longer_wanted_is_a_difference() {
        let mut before = object(json!({"spec": {"replicas": 1, "paused": true}}));
        let mut wanted = object(json!({"spec": {"replicas": 1}}));
        mark(&mut before);
        mark(&mut wanted);
        assert!(!is_as_wanted(&wanted, &before));
    }
}
