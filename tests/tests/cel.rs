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

/// `kubectl` sends an explicit null where a template left a field empty.
#[test]
fn an_explicit_null_for_the_fallback_is_no_error_of_a_rule() -> Result<()> {
    let object: ZImageDeployment = serde_json::from_value(valid().without("spec.fallback"))?;
    let manifest = serde_json::to_value(object)?.with("spec.fallback", Value::Null);
    let crd = documents::parse(&repository::read("crds/yaml/zimagedeployments.yaml"))?.remove(0);
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let faults = Validator::new().validate(schema, &manifest, None).err();
    assert!(faults.is_none(), "{faults:?}");
    Ok(())
}
