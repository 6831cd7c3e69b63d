//! PodDisruptionBudgets: a node drain takes one pod of a component at a time.

use crate::component::Component;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use zimage_crds::ZImageDeployment;

/// A budget for a component of two pods or more. With a single pod it would block every node drain.
pub(super) fn pod_disruption_budget(
    owner: &ZImageDeployment,
    component: Component,
    replicas: i32,
) -> Option<PodDisruptionBudget> {
    (replicas >= 2).then(|| PodDisruptionBudget {
        metadata: component.metadata(owner),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(component.selector(owner)),
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that is not ready serves nobody: it never holds a drain up.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
