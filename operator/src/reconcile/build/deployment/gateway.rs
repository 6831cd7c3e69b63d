//! The gateway pods.

use super::{
    GRACE_MARGIN_SECONDS, LAME_DUCK_SECONDS, Part, Rollout, container, deployment, lame_duck,
    pod_spec,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use std::collections::BTreeMap;
use zimage_crds::ZImageDeployment;

/// Largest request body, the server's own: an image to start from and its mask, encoded in base64.
const MAX_BODY_BYTES: u32 = 32 << 20;

/// The Deployment of the gateway.
pub(in super::super) fn gateway(owner: &ZImageDeployment, image: String) -> Deployment {
    let spec = &owner.spec.gateway;
    let mut container = container("gateway", image, arguments(owner), 8080);
    container.resources = spec.resources.clone().or_else(|| Some(default_resources()));
    let mut pod = pod_spec(owner, Part::Gateway, &spec.scheduling, container);
    // A request in flight may take as long as any: it is not cut by a rollout of the gateway.
    pod.termination_grace_period_seconds =
        Some(i64::from(spec.request_timeout_seconds) + LAME_DUCK_SECONDS + GRACE_MARGIN_SECONDS);
    deployment(
        owner,
        Part::Gateway,
        spec.replicas,
        Rollout::SurgeFirst,
        pod,
    )
}

fn arguments(owner: &ZImageDeployment) -> Vec<String> {
    let timeout = owner.spec.gateway.request_timeout_seconds.to_string();
    let flags = [
        ("namespace", owner.namespace().unwrap_or_default()),
        ("name", owner.name_any()),
        ("listen", "0.0.0.0:8080".to_owned()),
        ("metrics-listen", "0.0.0.0:9090".to_owned()),
        ("request-timeout-seconds", timeout.clone()),
        ("max-body-bytes", MAX_BODY_BYTES.to_string()),
        lame_duck(),
        ("drain-timeout-seconds", timeout),
    ];
    flags
        .into_iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

fn default_resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        let quantity =
            |&(name, value): &(&str, &str)| (name.to_owned(), Quantity(value.to_owned()));
        pairs.iter().map(quantity).collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "64Mi")])),
        limits: Some(quantities(&[("memory", "256Mi")])),
        ..ResourceRequirements::default()
    }
}
