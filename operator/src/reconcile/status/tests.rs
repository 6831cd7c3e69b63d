//! What the status says about what was seen.

use super::*;
use crate::clock::Moment;
use crate::decide::rollout::Images;
use crate::decide::traffic::{Load, Observation, TierObservation};
use crate::decide::{Decision, Inputs, decide};
use crate::observe::Knowledge;
use k8s_openapi::api::rbac::v1::RoleRef;
use serde_json::{Value, json};
use zimage_crds::TrafficState;

fn owner() -> ZImageDeployment {
    let tier = |variant: &str| {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        json!({"model": {"variant": variant, "source": source}})
    };
    serde_json::from_value(json!({
        "apiVersion": "zimage.dev/v1alpha1",
        "kind": "ZImageDeployment",
        "metadata": {"name": "fox", "namespace": "art", "generation": 4},
        "spec": {"primary": tier("Turbo"), "fallback": tier("Base"), "gateway": {"replicas": 1}},
    }))
    .unwrap()
}

fn pod(component: Component, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    let mut labels = component.labels(&owner());
    labels.insert("pod-template-hash".to_owned(), "1".to_owned());
    let maker = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "",
        "name": format!("{}-1", component.name(&owner())), "controller": true});
    let pod = json!({
        "metadata": {"name": component.name(&owner()), "namespace": "art", "labels": labels, "ownerReferences": [maker]},
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn deployment(component: Component, status: Value) -> Arc<DynamicObject> {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": component.name(&owner()), "generation": 2},
        "spec": {"selector": {}, "template": {}},
        "status": status,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn rolled_out() -> Value {
    let progressing =
        json!({"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"});
    json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "conditions": [progressing]})
}

const COMPONENTS: [Component; 3] = [
    Component::Server(Tier::Primary),
    Component::Server(Tier::Fallback),
    Component::Gateway,
];

fn status_with(ready: [bool; 3], deployments: [Value; 3]) -> ZImageDeploymentStatus {
    status_after(ready, deployments, None, &ZImageDeploymentStatus::default())
}

fn start() -> Moment {
    Moment {
        monotonic: std::time::Instant::now(),
        wall: Timestamp::UNIX_EPOCH,
    }
}

/// The status of a new deployment whose children are rolled out.
fn status_of(owner: &ZImageDeployment, ready: [bool; 3]) -> ZImageDeploymentStatus {
    status_from(
        owner,
        ready,
        all_rolled_out(),
        None,
        &ZImageDeploymentStatus::default(),
    )
}

fn status_after(
    ready: [bool; 3],
    deployments: [Value; 3],
    fault: Option<&Fault>,
    before: &ZImageDeploymentStatus,
) -> ZImageDeploymentStatus {
    status_from(&owner(), ready, deployments, fault, before)
}

fn status_from(
    owner: &ZImageDeployment,
    ready: [bool; 3],
    deployments: [Value; 3],
    fault: Option<&Fault>,
    before: &ZImageDeploymentStatus,
) -> ZImageDeploymentStatus {
    let pods = COMPONENTS
        .into_iter()
        .zip(ready)
        .map(|(component, ready)| pod(component, ready))
        .collect();
    let existing = Existing {
        pods,
        ..Existing::default()
    };
    let applied: Vec<_> = COMPONENTS
        .into_iter()
        .zip(deployments)
        .map(|(component, status)| deployment(component, status))
        .collect();
    let tier = |ready| TierObservation {
        ready_pods: u32::from(ready),
        load: Load::NoGpu,
        ..TierObservation::default()
    };
    let observation = Observation {
        primary: tier(ready[0]),
        fallback: tier(ready[1]),
    };
    let now = Timestamp::from_second(if before.conditions.is_empty() { 0 } else { 100 }).unwrap();
    let snapshot = snapshot(owner, observation, None);
    status_at(owner, &existing, &applied, &snapshot, (fault, before, now))
}

/// What is decided on this observation, after what the status tells.
fn snapshot(
    owner: &ZImageDeployment,
    observation: Observation,
    status: Option<&TrafficStatus>,
) -> Snapshot {
    let inputs = Inputs {
        spec: &owner.spec,
        observation,
        now: start(),
    };
    let begin = Decision::begin(&owner.spec, status, start());
    Snapshot {
        decision: decide(&inputs, &begin),
        observation,
        knowledge: Knowledge::default(),
    }
}

fn status_at(
    owner: &ZImageDeployment,
    existing: &Existing,
    applied: &[Arc<DynamicObject>],
    snapshot: &Snapshot,
    (fault, before, now): (Option<&Fault>, &ZImageDeploymentStatus, Timestamp),
) -> ZImageDeploymentStatus {
    let desired = Desired {
        owner,
        images: Images {
            servers: PerTier::from_fn(|tier| format!("server-of-{tier}:1")),
            gateway: "gateway:1".to_owned(),
        },
        replicas: snapshot.decision.replicas,
        peers: None,
        gateway_role: &RoleRef::default(),
        lacking: Vec::new(),
    };
    let observed = Observed::new(&desired, applied, existing, snapshot);
    of(&observed, fault, before, now)
}

fn all_rolled_out() -> [Value; 3] {
    [rolled_out(), rolled_out(), rolled_out()]
}

fn condition<'a>(status: &'a ZImageDeploymentStatus, kind: &str) -> (&'a str, &'a str) {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap();
    (&found.status, &found.reason)
}

#[test]
fn everything_rolled_out_and_serving_is_ready() {
    let status = status_with([true; 3], all_rolled_out());
    assert_eq!(condition(&status, "Ready"), ("True", "Available"));
    assert_eq!(condition(&status, "MetricsAvailable"), ("False", "NoGPU"));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.traffic.unwrap().split, "90/10");
    assert_eq!(status.primary.unwrap().ready, "1/1");
}

#[test]
fn old_pods_that_satisfy_the_count_are_not_ready() {
    let stale = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "conditions": rolled_out()["conditions"]});
    let status = status_with([true; 3], [stale, rolled_out(), rolled_out()]);
    assert_eq!(condition(&status, "Ready"), ("False", "Progressing"));
    let old = json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 0, "conditions": rolled_out()["conditions"]});
    let status = status_with([true; 3], [rolled_out(), rolled_out(), old]);
    assert_eq!(condition(&status, "Ready"), ("False", "Progressing"));
}

#[test]
fn a_tier_without_ready_pod_is_not_ready_and_loses_its_traffic() {
    let status = status_with([false, true, true], all_rolled_out());
    assert_eq!(condition(&status, "PrimaryReady"), ("False", "Progressing"));
    assert_eq!(condition(&status, "TrafficReady"), ("True", "Available"));
    assert_eq!(
        condition(&status, "Shifted"),
        ("True", "PrimaryUnavailable")
    );
    assert_eq!(condition(&status, "Ready"), ("False", "Progressing"));
    assert_eq!(status.traffic.unwrap().split, "0/100");
}

#[test]
fn a_gateway_without_any_tier_has_nothing_to_send_to() {
    let status = status_with([false, false, true], all_rolled_out());
    assert_eq!(condition(&status, "TrafficReady"), ("False", "NoReadyPods"));
    assert_eq!(condition(&status, "Shifted"), ("False", "BothUnavailable"));
}

#[test]
fn a_refusal_is_told_while_traffic_goes_on_following_the_pods() {
    let before = status_with([true; 3], all_rolled_out());
    for (code, reason) in [(400, "InvalidSpec"), (403, "ApplyFailed")] {
        let refusal = kube::core::Status::failure("exceeded quota", "").with_code(code);
        let error = ReconcileError::Api(kube::Error::Api(refusal.boxed()));
        let fault = Fault::of(&error);
        let after = status_after([false, true, true], all_rolled_out(), Some(&fault), &before);
        assert_eq!(condition(&after, "Accepted"), ("False", reason));
        assert_eq!(condition(&after, "Ready"), ("False", reason));
        assert!(after.conditions[0].message.ends_with("exceeded quota"));
        assert_eq!(after.traffic.unwrap().split, "0/100");
    }
}

#[test]
fn the_transition_time_moves_only_when_the_status_flips() {
    let before = status_with([true; 3], all_rolled_out());
    let after = status_after([false, true, true], all_rolled_out(), None, &before);
    let second = |status: &ZImageDeploymentStatus, kind: &str| {
        let found = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .unwrap();
        found.last_transition_time.0.as_second()
    };
    assert_eq!(second(&after, "FallbackReady"), 0);
    assert_eq!(second(&after, "PrimaryReady"), 100);
}

#[test]
fn a_paused_deployment_is_ready_only_while_its_spec_is_what_runs() {
    let before = status_with([true; 3], all_rolled_out());
    let held = ReconcileError::Held("Deployment fox-primary".to_owned());
    let fault = Fault::of(&held);
    let after = status_after([true; 3], all_rolled_out(), Some(&fault), &before);
    for kind in ["Accepted", "Ready"] {
        assert_eq!(condition(&after, kind), ("False", "Paused"));
    }
    let message = &after.conditions[0].message;
    assert!(
        message.ends_with("not what runs: Deployment fox-primary"),
        "{message}"
    );
}

#[test]
fn shifted_is_true_exactly_while_the_weights_are_not_the_specs() {
    let mut unused = owner();
    unused.spec.traffic.weights = Weights {
        primary: 100,
        fallback: 0,
    };
    let status = status_of(&unused, [true, false, true]);
    assert_eq!(
        condition(&status, "Shifted"),
        ("False", "FallbackUnavailable")
    );

    let normal = snapshot(&owner(), Observation::default(), None);
    let shifted = TrafficStatus {
        weights: Weights {
            primary: 0,
            fallback: 100,
        },
        state: TrafficState::Shifted,
        ..traffic_status(&normal.decision.traffic)
    };
    let nothing_ready = snapshot(&owner(), Observation::default(), Some(&shifted));
    let status = status_at(
        &owner(),
        &Existing::default(),
        &[],
        &nothing_ready,
        (None, &ZImageDeploymentStatus::default(), start().wall),
    );
    assert_eq!(condition(&status, "Shifted"), ("True", "BothUnavailable"));
}

#[test]
fn pods_that_have_ended_are_not_counted() {
    let mut evicted = Pod::clone(&pod(COMPONENTS[0], false));
    evicted.metadata.name = Some("evicted".to_owned());
    evicted.status.get_or_insert_default().phase = Some("Failed".to_owned());
    let existing = Existing {
        pods: vec![pod(COMPONENTS[0], true), Arc::new(evicted)],
        ..Existing::default()
    };
    assert_eq!(existing.pods_of(&owner(), COMPONENTS[0]).len(), 1);
    assert_eq!(existing.ended_pods_of(&owner(), COMPONENTS[0]).len(), 1);
}

#[test]
fn the_scale_subresource_counts_the_primary_tier() {
    let status = status_with([true; 3], all_rolled_out());
    assert_eq!(status.replicas, 1);
    assert!(status.selector.unwrap().contains("zimage.dev/tier=primary"));
}
