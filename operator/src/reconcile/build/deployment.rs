//! Deployments of the server and gateway pods.

mod gateway;
mod server;

use crate::component::Component;
use crate::quantity::quantity;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, HTTPGetAction, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use zimage_crds::contract::{HEALTHZ_PATH, METRICS_PORT, READYZ_PATH};
use zimage_crds::{SchedulingSpec, ZImageDeployment};

pub(super) use gateway::{gateway, hold_token_of};
pub(in super::super) use server::computes_on_gpu;
pub(super) use server::server;

/// The account of the images' programs.
const NON_ROOT: i64 = 65532;
/// Seconds that a stopping pod goes on serving, so that every gateway and proxy learns that it leaves.
const LAME_DUCK_SECONDS: i64 = 5;
/// Seconds between a program's own deadline for its drain and the kubelet's.
const GRACE_MARGIN_SECONDS: i64 = 10;

/// How a component's pods are replaced.
#[derive(Clone, Copy)]
enum Rollout {
    /// One goes before its successor comes: a GPU pool that is full has no room for one more.
    InPlace,
    /// The successor comes first.
    SurgeFirst,
}

fn deployment(
    owner: &ZImageDeployment,
    component: Component,
    replicas: i32,
    rollout: Rollout,
    pod: PodSpec,
) -> Deployment {
    let (surge, unavailable) = match rollout {
        Rollout::InPlace => (0, 1),
        Rollout::SurgeFirst => (1, 0),
    };
    Deployment {
        metadata: component.metadata(owner),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: component.selector(owner),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(component.labels(owner)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// What every pod has: its account, the restricted security profile, and its place.
fn pod_spec(
    owner: &ZImageDeployment,
    component: Component,
    scheduling: &SchedulingSpec,
    container: Container,
) -> PodSpec {
    PodSpec {
        service_account_name: Some(component.account(owner)),
        // Variables with the addresses of every Service of the namespace: nobody reads them.
        enable_service_links: Some(false),
        containers: vec![container],
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NON_ROOT),
            run_as_group: Some(NON_ROOT),
            fs_group: Some(NON_ROOT),
            // A checkpoint has few, large files, but a claim may hold many: ownership is changed once.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(component.selector(owner)),
            ..TopologySpreadConstraint::default()
        }]),
        node_selector: some_if_any(scheduling.node_selector.clone(), |map| map.is_empty()),
        tolerations: some_if_any(scheduling.tolerations.clone(), Vec::is_empty),
        affinity: scheduling.affinity.clone(),
        runtime_class_name: scheduling.runtime_class_name.clone(),
        priority_class_name: scheduling.priority_class_name.clone(),
        image_pull_secrets: some_if_any(scheduling.image_pull_secrets.clone(), Vec::is_empty),
        ..PodSpec::default()
    }
}

/// An empty list is left out: to the API server it is the same as none.
fn some_if_any<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}

/// Where a program listens, in every pod.
fn listen(flag: &'static str, port: u16) -> (&'static str, String) {
    (flag, format!("0.0.0.0:{port}"))
}

/// The programs' own defaults may change; the pod's grace period rests on this figure.
fn lame_duck() -> (&'static str, String) {
    ("lame-duck-seconds", LAME_DUCK_SECONDS.to_string())
}

fn container(name: &str, image: String, args: Vec<String>, port: u16) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image),
        args: Some(args),
        ports: Some(vec![
            container_port("http", port),
            container_port("metrics", METRICS_PORT),
        ]),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe(HEALTHZ_PATH)
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(2),
            failure_threshold: Some(2),
            ..probe(READYZ_PATH)
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Requests and limits, each a resource's name and quantity.
fn resources(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        let quantity =
            |&(name, value): &(&str, &str)| (name.to_owned(), Quantity(value.to_owned()));
        Some(pairs.iter().map(quantity).collect())
    };
    ResourceRequirements {
        requests: quantities(requests),
        limits: quantities(limits),
        claims: None,
    }
}

/// What the spec asks for, and always with a limit of memory: what a process keeps of bodies and answers follows from it,
/// and would else follow from the node's. It is the default's, or the request where that is more.
fn limited(
    asked: Option<&ResourceRequirements>,
    default: ResourceRequirements,
) -> ResourceRequirements {
    let Some(mut asked) = asked.cloned() else {
        return default;
    };
    let of = |map: Option<&BTreeMap<String, Quantity>>| map?.get("memory").cloned();
    if of(asked.limits.as_ref()).is_some() {
        return asked;
    }
    let value = |memory: &Quantity| quantity(&memory.0).unwrap_or(f64::MAX);
    let candidates = [of(default.limits.as_ref()), of(asked.requests.as_ref())];
    let most = (candidates.into_iter().flatten()).max_by(|a, b| value(a).total_cmp(&value(b)));
    if let Some(most) = most {
        let limits = asked.limits.get_or_insert_default();
        limits.insert("memory".to_owned(), most);
    }
    asked
}

fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        // A CPU tier computes with every core; its answer may be late.
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
