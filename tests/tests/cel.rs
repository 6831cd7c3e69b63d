//! The CEL rules of the API, without an API server: each rule accepts and refuses what it says. `apiserver` asks a real
//! one about the rest of the schema.

use anyhow::Result;
use kube::core::cel::{Validator, validate_cel};
use serde_json::{Value, json};
use zimage_crds::ZImageDeployment;
use zimage_tests::manifest::{Change, valid};
use zimage_tests::{documents, repository};

/// What the rules say to a manifest with its defaults filled in.
fn faults(manifest: &Value) -> Vec<String> {
    let object: ZImageDeployment =
        serde_json::from_value(manifest.clone()).expect("of the right types");
    let errors = validate_cel(&object).err();
    errors
        .into_iter()
        .flatten()
        .map(|error| error.to_string())
        .collect()
}

#[track_caller]
fn accepts(manifest: &Value) {
    assert_eq!(faults(manifest), Vec::<String>::new(), "{manifest}");
}

#[track_caller]
fn refuses(manifest: &Value, words: &str) {
    let faults = faults(manifest);
    assert!(
        faults.iter().any(|fault| fault.contains(words)),
        "{manifest}: {faults:?}"
    );
}

#[test]
fn short_manifests_are_accepted() {
    accepts(&valid());
    accepts(&valid().without("spec.fallback"));
}

#[test]
fn names_are_dns_labels_with_room_for_suffixes() {
    let named = |name: &str| valid().with("metadata.name", json!(name));
    accepts(&named(&"a".repeat(40)));
    refuses(&named(&"a".repeat(41)), "at most 40");
    refuses(&named("9lives"), "DNS label");
    refuses(&named("a.b"), "DNS label");
}

#[test]
fn weights_send_requests_somewhere() {
    let weights = |primary: i32, fallback: i32| {
        valid().with(
            "spec.traffic.weights",
            json!({"primary": primary, "fallback": fallback}),
        )
    };
    accepts(&weights(0, 100));
    accepts(&weights(100, 0));
    refuses(&weights(0, 0), "at least one weight");
    refuses(
        &weights(0, 100).without("spec.fallback"),
        "above 0 when there is no fallback",
    );
}

#[test]
fn thresholds_leave_a_gap() {
    let shift = |enter: i32, leave: i32| {
        valid().with(
            "spec.traffic.shift",
            json!({"utilizationPercent": enter, "returnBelowPercent": leave}),
        )
    };
    accepts(&shift(98, 97));
    refuses(&shift(80, 80), "flap");
}

#[test]
fn paths_stay_inside_the_volume() {
    let path = |path: &str| {
        valid().with(
            "spec.primary.model.source.persistentVolumeClaim.path",
            json!(path),
        )
    };
    accepts(&path("turbo/v1..2"));
    refuses(&path("/etc"), "relative to the volume");
    refuses(&path("a/../b"), "relative to the volume");
}

#[test]
fn a_gpu_resource_is_an_extended_one() {
    let resource = |name: &str| valid().with("spec.primary.gpu", json!({"resourceName": name}));
    accepts(&resource("amd.com/gpu"));
    refuses(&resource("cpu"), "extended resource");
}

#[test]
fn a_precision_is_one_that_the_device_computes_in() {
    let tier = |device: &str, gpu: Value, precision: &str| {
        valid()
            .with("spec.primary.device", json!(device))
            .with("spec.primary.gpu", gpu)
            .with("spec.primary.engine", json!({"precision": precision}))
    };
    let none = Value::Null;
    for (device, gpu) in [
        ("Auto", json!({})),
        ("Cuda", json!({})),
        ("Cuda", none.clone()),
    ] {
        accepts(&tier(device, gpu.clone(), "Auto"));
        accepts(&tier(device, gpu.clone(), "Bfloat16"));
        accepts(&tier(device, gpu.clone(), "Int8"));
        refuses(&tier(device, gpu, "Float32"), "needs the CPU");
    }
    for (device, gpu) in [("Auto", none.clone()), ("Cpu", none), ("Cpu", json!({}))] {
        accepts(&tier(device, gpu.clone(), "Auto"));
        accepts(&tier(device, gpu.clone(), "Float32"));
        for precision in ["Bfloat16", "Int8"] {
            refuses(&tier(device, gpu.clone(), precision), "needs a GPU");
        }
    }
}

#[test]
fn gpus_are_counted_in_one_place() {
    let named = |kind: &str, name: &str| {
        valid()
            .with(
                "spec.primary.gpu",
                json!({"resourceName": "example.com/gpu"}),
            )
            .with(
                &format!("spec.primary.resources.{kind}"),
                json!({ name: "1" }),
            )
    };
    for kind in ["limits", "requests"] {
        accepts(&named(kind, "cpu"));
        accepts(&named(kind, "nvidia.com/gpu"));
        refuses(&named(kind, "example.com/gpu"), "asked for by gpu.count");
        accepts(&named(kind, "example.com/gpu").without("spec.primary.gpu"));
    }
}

#[test]
fn a_node_selector_does_not_contradict_the_gpu() {
    let selected = |labels: Value| {
        valid()
            .with("spec.primary.gpu", json!({"product": "NVIDIA-H800"}))
            .with("spec.primary.scheduling.nodeSelector", labels)
    };
    accepts(&selected(json!({"example.com/pool": "a"})));
    accepts(&selected(json!({"nvidia.com/gpu.product": "NVIDIA-H800"})));
    let other = selected(json!({"nvidia.com/gpu.product": "NVIDIA-A10G"}));
    refuses(&other, "contradict gpu.product");
    accepts(&other.without("spec.primary.gpu.product"));
}

/// `kubectl` sends an explicit null where a template left a field empty.
#[test]
fn an_explicit_null_is_no_error_of_a_rule() -> Result<()> {
    let crd = documents::parse(&repository::read("crds/yaml/zimagedeployments.yaml"))?.remove(0);
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for (manifest, path) in [
        (valid().without("spec.fallback"), "spec.fallback"),
        (valid(), "spec.primary.gpu"),
        (valid(), "spec.primary.resources"),
    ] {
        let object: ZImageDeployment = serde_json::from_value(manifest)?;
        let manifest = serde_json::to_value(object)?.with(path, Value::Null);
        let faults = Validator::new().validate(schema, &manifest, None).err();
        assert!(faults.is_none(), "{path}: {faults:?}");
    }
    Ok(())
}
