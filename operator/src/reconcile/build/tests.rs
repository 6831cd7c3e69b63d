//! What a spec becomes. Golden files hold whole objects: a change in them is a restart of users' pods.

use super::*;
use crate::decide::scale;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::path::Path;
use zimage_crds::{
    GatewaySpec, GpuSpec, LimitsSpec, SchedulingSpec, TierSpec, ZImageDeploymentSpec,
};

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
        servers: PerTier {
            primary: "server:1".to_owned(),
            fallback: "server:2".to_owned(),
        },
        gateway: "gateway:1".to_owned(),
    }
}

fn peers() -> Peers {
    Peers {
        metrics: vec![operator("zimage-system")],
        clients: Vec::new(),
    }
}

fn built(owner: &ZImageDeployment) -> Vec<DynamicObject> {
    built_for(owner, Some(&peers()))
}

fn built_for(owner: &ZImageDeployment, peers: Option<&Peers>) -> Vec<DynamicObject> {
    let desired = Desired {
        owner,
        images: images(),
        replicas: scale::replicas(&owner.spec),
        peers,
        gateway_role: &RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: "zimage-gateway".to_owned(),
        },
        lacking: Vec::new(),
    };
    let account = Some("7d2e1a2e-0000-4000-8000-000000000000");
    build(&desired).unwrap().children(account).unwrap()
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
            "ServiceAccount/zimage-fox-gateway-77c6adfd",
            "ServiceAccount/zimage-fox-primary-b0d1617d",
            "ServiceAccount/zimage-fox-fallback-453db849",
            "RoleBinding/zimage-fox-gateway-77c6adfd",
            "NetworkPolicy/fox-gateway",
            "NetworkPolicy/fox-primary",
            "NetworkPolicy/fox-fallback",
            "Service/fox",
            "PodDisruptionBudget/fox-gateway",
            "Service/fox-primary",
            "Deployment/fox-primary",
            "Service/fox-fallback",
            "Deployment/fox-fallback",
            "Deployment/fox-gateway",
        ]
    );
}

#[test]
fn servers_are_reached_by_their_gateway_and_metrics_by_the_operator() {
    let children = built(&short());
    let ingress = |name| find(&children, name)["spec"]["ingress"].clone();
    let server = ingress("NetworkPolicy/fox-primary");
    let gateway =
        json!({"podSelector": {"matchLabels": Component::Gateway.selector_labels(&short())}});
    assert_eq!(server[0]["from"], json!([gateway]));
    assert_eq!(
        server[0]["ports"],
        json!([{"port": "http", "protocol": "TCP"}])
    );
    assert_eq!(server[1]["from"], json!([operator("zimage-system")]));
    assert_eq!(
        server[1]["ports"],
        json!([{"port": "metrics", "protocol": "TCP"}])
    );
    assert_eq!(server.as_array().unwrap().len(), 2);
    let open = ingress("NetworkPolicy/fox-gateway");
    assert_eq!(open[0].get("from"), None, "clients may come from anywhere");
    assert_eq!(open[1]["from"], json!([operator("zimage-system")]));
}

#[test]
fn clients_of_the_gateway_can_be_named_and_policies_left_out() {
    let named = Peers {
        clients: vec![operator("web")],
        ..peers()
    };
    let children = built_for(&short(), Some(&named));
    let ingress = &find(&children, "NetworkPolicy/fox-gateway")["spec"]["ingress"];
    assert_eq!(ingress[0]["from"], json!([operator("web")]));
    let without = names(&built_for(&short(), None));
    assert!(!without.iter().any(|name| name.starts_with("NetworkPolicy")));
}

#[test]
fn every_container_has_memory_and_disk_asked_for_and_bounded() {
    let gpu = owner(json!({"primary": tier("Turbo", json!({"gpu": {}}))}));
    for children in [built(&short()), built(&gpu)] {
        for child in children
            .iter()
            .filter(|child| child.types.as_ref().unwrap().kind == "Deployment")
        {
            let deployment = serde_json::to_value(child).unwrap();
            let pod = pod(&deployment);
            assert_eq!(pod["enableServiceLinks"], false);
            for list in ["requests", "limits"] {
                let quantities = &pod["containers"][0]["resources"][list];
                for resource in ["memory", "ephemeral-storage"] {
                    assert!(
                        quantities[resource].is_string(),
                        "{} {list}: {quantities}",
                        child.name_any()
                    );
                }
            }
        }
    }
}

#[test]
fn resources_of_the_spec_take_the_place_of_the_default_and_memory_always_has_a_limit() {
    for (asked, limit) in [
        (json!({"requests": {"memory": "16Mi"}}), "32Gi"),
        (json!({"requests": {"memory": "40Gi"}}), "40Gi"),
        (
            json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "20Mi"}}),
            "20Mi",
        ),
    ] {
        let tier = tier("Turbo", json!({"resources": asked, "gpu": {}}));
        let children = built(&owner(json!({"primary": tier})));
        let deployment = find(&children, "Deployment/fox-primary");
        let resources = &pod(&deployment)["containers"][0]["resources"];
        let expected = json!({"requests": asked["requests"],
            "limits": {"memory": limit, "nvidia.com/gpu": "1"}});
        assert_eq!(*resources, expected);
    }
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
    let spec = json!({"gpu": {"product": "NVIDIA-H800"}});
    let children = built(&owner(json!({"primary": tier("Turbo", spec)})));
    let deployment = find(&children, "Deployment/fox-primary");
    let pod = pod(&deployment);
    assert_eq!(
        pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
        "1"
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
    let resources = &pod(&deployment)["containers"][0]["resources"];
    assert_eq!(resources["requests"]["memory"], "48Gi");
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
fn only_the_gateway_gets_a_token_and_it_is_bound_to_the_role_for_gateways() {
    let children = built(&short());
    let automount = |name| find(&children, name)["automountServiceAccountToken"].clone();
    assert_eq!(
        automount("ServiceAccount/zimage-fox-primary-b0d1617d"),
        false
    );
    assert_eq!(
        automount("ServiceAccount/zimage-fox-gateway-77c6adfd"),
        true
    );
    let binding = find(&children, "RoleBinding/zimage-fox-gateway-77c6adfd");
    assert_eq!(binding["roleRef"]["name"], "zimage-gateway");
    assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
    assert_eq!(
        binding["subjects"][0]["name"],
        "zimage-fox-gateway-77c6adfd"
    );
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

#[track_caller]
fn assert_golden(name: &str, rendered: &[Value]) {
    let rendered = serde_json::to_string_pretty(rendered).unwrap() + "\n";
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let path = Path::new(&crate_folder)
        .join("src/reconcile/build/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        rendered == golden,
        "{name}: an operator upgrade would restart users' pods or move their Services; if that is wanted, run the test with UPDATE_GOLDEN=1"
    );
}

fn pod_templates(owner: &ZImageDeployment) -> Vec<Value> {
    let children = built(owner);
    ["primary", "fallback", "gateway"]
        .map(|component| {
            find(&children, &format!("Deployment/fox-{component}"))["spec"]["template"].clone()
        })
        .to_vec()
}

/// A deployment with every field of the spec that reaches a pod.
fn everything() -> ZImageDeployment {
    let expression = |key: &str| json!({"key": key, "operator": "Exists"});
    let scheduling = |name: &str| {
        json!({
            "nodeSelector": {"example.com/pool": name},
            "tolerations": [
                {"key": "example.com/reserved", "operator": "Equal", "value": name, "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression("example.com/zone")]}],
            }}},
            "runtimeClassName": "nvidia",
            "priorityClassName": "serving",
            "imagePullSecrets": [{"name": "pull"}],
        })
    };
    let every = json!({
        "replicas": 2,
        "image": "registry.example.com/server:9",
        "device": "Cuda",
        "gpu": {"product": "NVIDIA-H800", "count": 1, "resourceName": "example.com/gpu"},
        "engine": {
            "precision": "Bfloat16", "maxBatchSize": 4, "maxQueueLength": 8, "drainTimeoutSeconds": 300,
        },
        "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"memory": "64Gi"}},
        "scheduling": scheduling("primary"),
        "env": [
            {"name": "RUST_LOG", "value": "debug"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
    });
    owner(json!({
        "primary": tier("Turbo", every.clone()),
        "fallback": tier("Base", every),
        "limits": {"maxImages": 4, "maxPixels": 1_048_576, "maxSteps": 50, "maxCost": 500},
        "gateway": {
            "replicas": 3,
            "image": "registry.example.com/gateway:9",
            "requestTimeoutSeconds": 600,
            "allowedHosts": ["images.example.com", "fox"],
            "allowedOrigins": ["https://studio.example.com"],
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
            "scheduling": scheduling("gateway"),
        },
    }))
}

/// Patterns without `..`: a new field of the spec does not compile until it is in [`everything`].
fn has_every_field(spec: &ZImageDeploymentSpec) -> bool {
    let scheduled = |spec: &SchedulingSpec| {
        matches!(
            spec,
            SchedulingSpec {
                node_selector: _,
                tolerations: _,
                affinity: Some(_),
                runtime_class_name: Some(_),
                priority_class_name: Some(_),
                image_pull_secrets: _,
            }
        ) && !spec.node_selector.is_empty()
            && !spec.tolerations.is_empty()
            && !spec.image_pull_secrets.is_empty()
    };
    let complete = |spec: &TierSpec| {
        matches!(
            spec,
            TierSpec {
                model: _,
                replicas: _,
                image: Some(_),
                device: _,
                gpu: Some(GpuSpec {
                    product: Some(_),
                    count: _,
                    resource_name: _,
                }),
                engine: _,
                resources: Some(_),
                scheduling: _,
                env: _,
            }
        ) && !spec.env.is_empty()
            && scheduled(&spec.scheduling)
    };
    let gateway = matches!(
        &spec.gateway,
        GatewaySpec {
            replicas: _,
            image: Some(_),
            request_timeout_seconds: _,
            allowed_hosts: Some(_),
            allowed_origins: Some(_),
            resources: Some(_),
            scheduling: _,
        }
    );
    let limits = matches!(
        &spec.limits,
        LimitsSpec {
            max_images: Some(_),
            max_pixels: Some(_),
            max_steps: Some(_),
            max_cost: Some(_),
        }
    );
    complete(&spec.primary)
        && limits
        && spec.fallback.as_ref().is_some_and(complete)
        && gateway
        && scheduled(&spec.gateway.scheduling)
}

#[test]
fn pod_templates_of_a_short_spec_are_those_of_the_golden_files() {
    let gpu = owner(json!({
        "primary": tier("Turbo", json!({"replicas": 2, "gpu": {"product": "NVIDIA-H800"}})),
        "fallback": tier("Base", json!({"gpu": {"product": "NVIDIA-A10G"}})),
    }));
    assert_golden("gpu.json", &pod_templates(&gpu));
    assert_golden("cpu.json", &pod_templates(&short())[..2]);
}

#[test]
fn pod_templates_of_a_spec_with_every_field_are_those_of_the_golden_file() {
    let everything = everything();
    assert!(has_every_field(&everything.spec));
    assert_golden("everything.json", &pod_templates(&everything));
}

#[test]
fn services_are_those_of_the_golden_file() {
    let children = built(&short());
    let services = ["fox", "fox-primary", "fox-fallback"]
        .map(|name| find(&children, &format!("Service/{name}"))["spec"].clone());
    assert_golden("services.json", &services);
}
