//! What a spec becomes. Golden files hold whole objects: a change in them is a restart of users' pods.

use super::*;
use kube::ResourceExt;
use serde_json::{Value, json};

fn owner(spec: Value) -> ZImageDeployment {
    serde_json::from_value(json!({
        "apiVersion": "zimage.dev/v1alpha1",
        "kind": "ZImageDeployment",
        "metadata": {"name": "fox", "namespace": "art", "uid": "6f1c1a2e-0000-4000-8000-000000000000"},
        "spec": spec,
    }))
    .unwrap()
}

fn tier(variant: &str, more: Value) -> Value {
    let source = json!({"persistentVolumeClaim": {"claimName": "models", "path": "turbo/v1"}});
    let mut tier = json!({"model": {"variant": variant, "source": source}});
    tier.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    tier
}

fn short() -> ZImageDeployment {
    owner(json!({"primary": tier("Turbo", json!({})), "fallback": tier("Base", json!({}))}))
}

fn images() -> Images {
    Images {
        primary: "server:1".to_owned(),
        fallback: "server:2".to_owned(),
        gateway: "gateway:1".to_owned(),
    }
}

fn built(owner: &ZImageDeployment) -> Vec<DynamicObject> {
    children(owner, images()).unwrap()
}

fn names(children: &[DynamicObject]) -> Vec<String> {
    let name = |child: &DynamicObject| {
        format!(
            "{}/{}",
            child.types.as_ref().unwrap().kind,
            child.name_any()
        )
    };
    children.iter().map(name).collect()
}

fn find(children: &[DynamicObject], name: &str) -> Value {
    let place = names(children)
        .iter()
        .position(|found| found == name)
        .unwrap_or_else(|| panic!("no {name}"));
    serde_json::to_value(&children[place]).unwrap()
}

fn pod(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]
}

#[test]
fn a_short_spec_becomes_two_tiers_and_a_gateway() {
    assert_eq!(
        names(&built(&short())),
        [
            "ServiceAccount/fox-gateway",
            "Role/fox-gateway",
            "RoleBinding/fox-gateway",
            "Service/fox",
            "PodDisruptionBudget/fox-gateway",
            "ServiceAccount/fox-primary",
            "Service/fox-primary",
            "Deployment/fox-primary",
            "ServiceAccount/fox-fallback",
            "Service/fox-fallback",
            "Deployment/fox-fallback",
            "Deployment/fox-gateway",
        ]
    );
}

#[test]
fn without_a_fallback_there_is_nothing_of_it() {
    let children = built(&owner(json!({"primary": tier("Turbo", json!({}))})));
    assert!(
        !names(&children)
            .iter()
            .any(|name| name.contains("fallback"))
    );
}

#[test]
fn every_child_has_its_owner_its_namespace_and_a_known_kind() {
    for child in built(&short()) {
        let owner = &child.owner_references()[0];
        assert_eq!((owner.name.as_str(), owner.controller), ("fox", Some(true)));
        assert_eq!(child.namespace().as_deref(), Some("art"));
        assert!(
            kinds()
                .iter()
                .any(|kind| kind.kind == child.types.as_ref().unwrap().kind)
        );
    }
}

#[test]
fn a_tier_is_replaced_in_place_so_that_a_full_gpu_pool_cannot_block_it() {
    let children = built(&short());
    let strategy = |name| find(&children, name)["spec"]["strategy"]["rollingUpdate"].clone();
    assert_eq!(
        strategy("Deployment/fox-primary"),
        json!({"maxSurge": 0, "maxUnavailable": 1})
    );
    assert_eq!(
        strategy("Deployment/fox-gateway"),
        json!({"maxSurge": 1, "maxUnavailable": 0})
    );
}

#[test]
fn a_single_pod_has_no_disruption_budget_because_it_would_block_every_drain() {
    let one = built(&owner(
        json!({"primary": tier("Turbo", json!({})), "gateway": {"replicas": 1}}),
    ));
    assert!(
        !names(&one)
            .iter()
            .any(|name| name.starts_with("PodDisruptionBudget"))
    );
    let two = built(&owner(
        json!({"primary": tier("Turbo", json!({"replicas": 2}))}),
    ));
    let budget = find(&two, "PodDisruptionBudget/fox-primary");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}

#[test]
fn a_gpu_tier_asks_for_its_gpus_and_its_product_and_accepts_the_usual_taint() {
    let spec = json!({"gpu": {"product": "NVIDIA-H800", "count": 2}});
    let children = built(&owner(json!({"primary": tier("Turbo", spec)})));
    let deployment = find(&children, "Deployment/fox-primary");
    let pod = pod(&deployment);
    assert_eq!(
        pod["containers"][0]["resources"]["limits"],
        json!({"nvidia.com/gpu": "2"})
    );
    assert_eq!(
        pod["nodeSelector"],
        json!({"nvidia.com/gpu.product": "NVIDIA-H800"})
    );
    assert_eq!(pod["tolerations"][0]["key"], "nvidia.com/gpu");
    let args = pod["containers"][0]["args"].as_array().unwrap();
    assert!(args.contains(&json!("--device=cuda")), "{args:?}");
}

#[test]
fn a_tier_without_gpu_computes_on_the_cpu() {
    let deployment = find(&built(&short()), "Deployment/fox-primary");
    let args = pod(&deployment)["containers"][0]["args"]
        .as_array()
        .unwrap();
    assert!(args.contains(&json!("--device=cpu")), "{args:?}");
    assert_eq!(pod(&deployment)["containers"][0].get("resources"), None);
}

#[test]
fn every_pod_keeps_the_restricted_security_profile() {
    let children = built(&short());
    for name in [
        "Deployment/fox-primary",
        "Deployment/fox-fallback",
        "Deployment/fox-gateway",
    ] {
        let deployment = find(&children, name);
        let pod = pod(&deployment);
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        assert_eq!(container["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(container["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]), "{name}");
    }
}

#[test]
fn only_the_gateway_gets_a_token_and_it_may_read_its_own_deployment_alone() {
    let children = built(&short());
    let automount = |name| find(&children, name)["automountServiceAccountToken"].clone();
    assert_eq!(automount("ServiceAccount/fox-primary"), false);
    assert_eq!(automount("ServiceAccount/fox-gateway"), true);
    let role = find(&children, "Role/fox-gateway");
    assert_eq!(role["rules"][0]["resourceNames"], json!(["fox"]));
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["verbs"], json!(["get", "list", "watch"]));
    }
}

#[test]
fn a_pod_is_given_time_for_its_drain_before_it_is_killed() {
    let spec = tier("Turbo", json!({"engine": {"drainTimeoutSeconds": 300}}));
    let children = built(&owner(
        json!({"primary": spec, "gateway": {"requestTimeoutSeconds": 600}}),
    ));
    let grace = |name| pod(&find(&children, name))["terminationGracePeriodSeconds"].clone();
    assert_eq!(grace("Deployment/fox-primary"), 315);
    assert_eq!(grace("Deployment/fox-gateway"), 615);
}

#[test]
fn the_rendered_pod_templates_are_those_of_the_golden_file() {
    let spec = json!({
        "primary": tier("Turbo", json!({"replicas": 2, "gpu": {"product": "NVIDIA-H800"}})),
        "fallback": tier("Base", json!({"gpu": {"product": "NVIDIA-A10G"}})),
    });
    let children = built(&owner(spec));
    let deployments: Vec<_> = ["primary", "fallback", "gateway"]
        .map(|part| find(&children, &format!("Deployment/fox-{part}"))["spec"]["template"].clone())
        .to_vec();
    let rendered = serde_json::to_string_pretty(&deployments).unwrap() + "\n";
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/reconcile/build/pod-templates.golden.json"
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        rendered == golden,
        "an operator upgrade would restart users' pods; if that is wanted, run the test with UPDATE_GOLDEN=1"
    );
}
