//! The gateway pods.

use super::{
    Component, GRACE_MARGIN_SECONDS, LAME_DUCK_SECONDS, Rollout, container, deployment, lame_duck,
    limited, listen, pod_spec, resources,
};
use crate::reconcile::build::Desired;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::ResourceExt;
use std::collections::BTreeMap;
use zimage_crds::ZImageDeployment;
use zimage_crds::contract::{GATEWAY_PORT, MAX_BODY_BYTES, METRICS_PORT};

/// Annotation of the pods: the UID of the account whose token they hold.
const ACCOUNT: &str = "zimage.dev/service-account-uid";

/// The Deployment of the gateway.
pub(in super::super) fn gateway(desired: &Desired<'_>) -> Deployment {
    let owner = desired.owner;
    let spec = &owner.spec.gateway;
    let image = desired.images.gateway.clone();
    let mut container = container("gateway", image, arguments(owner), GATEWAY_PORT);
    container.resources = Some(limited(spec.resources.as_ref(), default_resources()));
    let mut pod = pod_spec(owner, Component::Gateway, &spec.scheduling, container);
    // A request in flight may take as long as any: it is not cut by a rollout of the gateway.
    pod.termination_grace_period_seconds =
        Some(i64::from(spec.request_timeout_seconds) + LAME_DUCK_SECONDS + GRACE_MARGIN_SECONDS);
    deployment(
        owner,
        Component::Gateway,
        spec.replicas,
        Rollout::SurgeFirst,
        pod,
    )
}

/// The API server refuses the token of an account that was deleted, also when one of its name was made again: the pods that
/// hold it know nothing new any more. So the pods go with the account's UID.
pub(in super::super) fn hold_token_of(gateway: &mut Deployment, account: &str) {
    if let Some(spec) = &mut gateway.spec {
        let metadata = spec.template.metadata.get_or_insert_default();
        let uid = (ACCOUNT.to_owned(), account.to_owned());
        metadata.annotations = Some(BTreeMap::from([uid]));
    }
}

fn arguments(owner: &ZImageDeployment) -> Vec<String> {
    let spec = &owner.spec.gateway;
    let timeout = spec.request_timeout_seconds.to_string();
    let each = |flag, values: &Option<Vec<String>>| -> Vec<(&'static str, String)> {
        let values = values.iter().flatten();
        values.map(|value| (flag, value.clone())).collect()
    };
    let flags = [
        ("namespace", owner.namespace().unwrap_or_default()),
        ("name", owner.name_any()),
        listen("listen", GATEWAY_PORT),
        listen("metrics-listen", METRICS_PORT),
        ("request-timeout-seconds", timeout.clone()),
        ("max-body-bytes", MAX_BODY_BYTES.to_string()),
        lame_duck(),
        ("drain-timeout-seconds", timeout),
    ];
    flags
        .into_iter()
        .chain(each("allowed-host", &spec.allowed_hosts))
        .chain(each("allowed-origin", &spec.allowed_origins))
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

fn default_resources() -> ResourceRequirements {
    resources(
        &[
            ("cpu", "100m"),
            ("memory", "64Mi"),
            ("ephemeral-storage", "16Mi"),
        ],
        &[("memory", "256Mi"), ("ephemeral-storage", "256Mi")],
    )
}
