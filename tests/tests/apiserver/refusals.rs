//! An invalid object is refused with a message that names the field and the rule.

use crate::{create, with_api};
use serde_json::{Value, json};
use zimage_tests::manifest::{Change, valid};

/// Creates each manifest and wants a refusal that contains every one of its words.
async fn refuses(cases: Vec<(Value, &[&str])>) -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(
            &client,
            &namespace,
            &valid().with("metadata.name", json!("accepted")),
        )
        .await?;
        for (manifest, words) in cases {
            let error = create(&client, &namespace, &manifest)
                .await
                .err()
                .map(|error| format!("{error:#}"));
            let message = error.unwrap_or_else(|| panic!("accepted: {manifest}"));
            for word in words {
                assert!(message.contains(word), "no {word:?} in {message:?}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn numbers_out_of_bounds() -> anyhow::Result<()> {
    let above = |path: &str, value: i64| valid().with(path, json!(value));
    refuses(vec![
        (
            above("spec.primary.replicas", -1),
            &["spec.primary.replicas", "greater than or equal to 0"],
        ),
        (
            above("spec.primary.replicas", 1001),
            &["spec.primary.replicas", "less than or equal to 1000"],
        ),
        (
            above("spec.primary.gpu.count", 0),
            &["spec.primary.gpu.count", "greater than or equal to 1"],
        ),
        (
            above("spec.fallback.gpu.count", 9),
            &["spec.fallback.gpu.count", "less than or equal to 8"],
        ),
        (
            above("spec.primary.engine.maxBatchSize", 0),
            &["spec.primary.engine.maxBatchSize", "1"],
        ),
        (
            above("spec.primary.engine.maxBatchSize", 17),
            &["spec.primary.engine.maxBatchSize", "16"],
        ),
        (
            above("spec.primary.engine.maxQueueLength", -1),
            &["spec.primary.engine.maxQueueLength", "0"],
        ),
        (
            above("spec.primary.engine.maxQueueLength", 1025),
            &["spec.primary.engine.maxQueueLength", "1024"],
        ),
        (
            above("spec.primary.engine.drainTimeoutSeconds", 0),
            &["drainTimeoutSeconds", "1"],
        ),
        (
            above("spec.primary.engine.drainTimeoutSeconds", 3601),
            &["drainTimeoutSeconds", "3600"],
        ),
        (
            above("spec.gateway.replicas", 0),
            &["spec.gateway.replicas", "1"],
        ),
        (
            above("spec.gateway.replicas", 101),
            &["spec.gateway.replicas", "100"],
        ),
        (
            above("spec.gateway.requestTimeoutSeconds", 0),
            &["spec.gateway.requestTimeoutSeconds", "1"],
        ),
        (
            above("spec.gateway.requestTimeoutSeconds", 7201),
            &["spec.gateway.requestTimeoutSeconds", "7200"],
        ),
        (
            above("spec.traffic.shift.utilizationPercent", 0),
            &["utilizationPercent", "1"],
        ),
        (
            above("spec.traffic.shift.utilizationPercent", 100),
            &["utilizationPercent", "99"],
        ),
        (
            above("spec.traffic.shift.windowSeconds", 0),
            &["windowSeconds", "1"],
        ),
        (
            above("spec.traffic.shift.windowSeconds", 3601),
            &["windowSeconds", "3600"],
        ),
        (
            above("spec.traffic.shift.returnAfterSeconds", 0),
            &["returnAfterSeconds", "1"],
        ),
        (
            above("spec.traffic.shift.minimumHoldSeconds", -1),
            &["minimumHoldSeconds", "0"],
        ),
        (
            above("spec.traffic.shift.coolDownSeconds", 86401),
            &["coolDownSeconds", "86400"],
        ),
    ])
    .await
}

#[tokio::test]
async fn weights_that_send_requests_nowhere() -> anyhow::Result<()> {
    let weights = |primary: i64, fallback: i64| json!({"primary": primary, "fallback": fallback});
    let nowhere = "at least one weight must be above 0";
    refuses(vec![
        (
            valid().with("spec.traffic.weights", weights(0, 0)),
            &["spec.traffic.weights", nowhere],
        ),
        (
            valid().with("spec.traffic.shift.weights", weights(0, 0)),
            &["spec.traffic.shift.weights", nowhere],
        ),
        (
            valid().with("spec.traffic.weights", weights(-1, 10)),
            &["spec.traffic.weights.primary", "0"],
        ),
        (
            valid().with("spec.traffic.weights", weights(90, 101)),
            &["spec.traffic.weights.fallback", "100"],
        ),
        (
            valid()
                .without("spec.fallback")
                .with("spec.traffic.weights", weights(0, 100)),
            &["traffic.weights.primary must be above 0 when there is no fallback tier"],
        ),
        (
            valid()
                .with("spec.fallback", Value::Null)
                .with("spec.traffic.weights", weights(0, 100)),
            &["traffic.weights.primary must be above 0 when there is no fallback tier"],
        ),
    ])
    .await
}

#[tokio::test]
async fn thresholds_that_would_flap() -> anyhow::Result<()> {
    let shift = |enter: i64, leave: i64| {
        valid().with(
            "spec.traffic.shift",
            json!({"utilizationPercent": enter, "returnBelowPercent": leave}),
        )
    };
    let rule = "returnBelowPercent must be lower than utilizationPercent";
    refuses(vec![
        (shift(90, 90), &["spec.traffic.shift", rule]),
        (shift(50, 80), &["spec.traffic.shift", rule]),
        (
            valid().with("spec.traffic.shift.utilizationPercent", json!(60)),
            &["spec.traffic.shift", rule],
        ),
    ])
    .await
}

#[tokio::test]
async fn names_that_children_cannot_carry() -> anyhow::Result<()> {
    refuses(vec![
        (
            valid().with("metadata.name", json!("a".repeat(41))),
            &["metadata.name must have at most 40 characters"],
        ),
        (
            valid().with("metadata.name", json!("1st")),
            &["metadata.name must be a DNS label that starts with a letter"],
        ),
        (
            valid().with("metadata.name", json!("a.b")),
            &["metadata.name must be a DNS label that starts with a letter"],
        ),
    ])
    .await
}

#[tokio::test]
async fn paths_that_leave_the_volume() -> anyhow::Result<()> {
    let path = "spec.primary.model.source.persistentVolumeClaim.path";
    let rule = "path must be relative to the volume and must not contain '..'";
    refuses(vec![
        (valid().with(path, json!("/etc")), &[path, rule]),
        (valid().with(path, json!("a/../../b")), &[path, rule]),
        (valid().with(path, json!("..")), &[path, rule]),
        (valid().with(path, json!("")), &[path, "at least 1"]),
    ])
    .await
}

#[tokio::test]
async fn tiers_that_no_pod_can_serve() -> anyhow::Result<()> {
    let gpu = json!({"product": "NVIDIA-H800"});
    let with_gpu = || valid().with("spec.primary.gpu", gpu.clone());
    let resources = "resources must not name the resource of gpu.resourceName";
    refuses(vec![
        (
            valid().with("spec.fallback.engine", json!({"precision": "Bfloat16"})),
            &["spec.fallback", "engine.precision Bfloat16 needs a GPU"],
        ),
        (
            with_gpu().with("spec.primary.engine", json!({"precision": "Float32"})),
            &["spec.primary", "engine.precision Float32 needs the CPU"],
        ),
        (
            with_gpu().with(
                "spec.primary.resources.limits",
                json!({"nvidia.com/gpu": "1"}),
            ),
            &["spec.primary", resources],
        ),
        (
            with_gpu().with(
                "spec.primary.resources.requests",
                json!({"nvidia.com/gpu": "1"}),
            ),
            &["spec.primary", resources],
        ),
        (
            with_gpu().with(
                "spec.primary.scheduling.nodeSelector",
                json!({"nvidia.com/gpu.product": "NVIDIA-A10G"}),
            ),
            &[
                "spec.primary",
                "scheduling.nodeSelector must not contradict gpu.product",
            ],
        ),
    ])
    .await
}

#[tokio::test]
async fn values_outside_the_closed_lists() -> anyhow::Result<()> {
    refuses(vec![
        (
            valid().with("spec.primary.model.variant", json!("Edit")),
            &["spec.primary.model.variant", "\"Turbo\"", "\"Base\""],
        ),
        (
            valid().with("spec.primary.device", json!("Tpu")),
            &["spec.primary.device", "\"Cuda\"", "\"Cpu\""],
        ),
        (
            valid().with("spec.primary.engine.precision", json!("Float16")),
            &["spec.primary.engine.precision", "\"Bfloat16\""],
        ),
        (
            valid().with("spec.traffic.mode", json!("Gateway")),
            &["spec.traffic.mode", "\"Proxy\""],
        ),
        (
            valid().with("spec.traffic.shift.trigger", json!("Queue")),
            &[
                "spec.traffic.shift.trigger",
                "\"UtilizationAndQueue\"",
                "\"Utilization\"",
            ],
        ),
    ])
    .await
}

#[tokio::test]
async fn missing_and_unknown_fields() -> anyhow::Result<()> {
    let claim = "spec.primary.model.source.persistentVolumeClaim";
    refuses(vec![
        (
            valid().without("spec.primary"),
            &["spec.primary", "Required"],
        ),
        (
            valid().without("spec.primary.model"),
            &["spec.primary.model", "Required"],
        ),
        (
            valid().without("spec.primary.model.variant"),
            &["spec.primary.model.variant", "Required"],
        ),
        (
            valid().without("spec.fallback.model.source"),
            &["spec.fallback.model.source", "Required"],
        ),
        (valid().without(claim), &[claim, "Required"]),
        (
            valid().with("spec.primary.replica", json!(2)),
            &["spec.primary.replica", "unknown field"],
        ),
        (
            valid().with("spec.traffic.shift.window", json!(30)),
            &["spec.traffic.shift.window", "unknown field"],
        ),
    ])
    .await
}

#[tokio::test]
async fn values_of_another_type() -> anyhow::Result<()> {
    refuses(vec![
        (
            valid().with("spec.primary.replicas", json!("two")),
            &["spec.primary.replicas", "integer"],
        ),
        (
            valid().with("spec.paused", json!("yes")),
            &["spec.paused", "boolean"],
        ),
        (
            valid().with("spec.primary.gpu.resourceName", json!("gpu")),
            &["spec.primary.gpu.resourceName", "resource"],
        ),
    ])
    .await
}
