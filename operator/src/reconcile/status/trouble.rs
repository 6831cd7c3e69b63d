//! Why a component has no ready pod, in words that say what to do. Pure.

use super::ComponentState;
use crate::reconcile::kubelet::{Obstacles, Trouble};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::{Resource, ResourceExt};
use zimage_crds::Reason;

/// What the server writes before the fault of its checkpoint, and ends with.
pub const MODEL_INVALID: &str = "model invalid:";
/// What the server writes before the fault of its device, and ends with.
pub const DEVICE_FAILED: &str = "device failed:";
/// Kubernetes limits a condition's message to 32 KiB and an event's note to 1 KiB.
const MOST_CHARACTERS: usize = 900;

/// Of pods without another trouble that a Deployment's controller waits for in vain, ten minutes long.
const STARTS_LONG: &str =
    "no pod has become ready for ten minutes: its server still loads, or hangs; see the pod's log";

/// The first trouble of a component: of its pods in the order of their names, then of its Deployment, and of pods that were
/// ended while one of them is missed.
pub(super) fn find(component: &ComponentState<'_>) -> Option<Trouble> {
    let deployment = component.deployment.as_ref();
    in_order(&component.pods)
        .find_map(|pod| of_pod(pod, component.obstacles))
        .or_else(|| deployment.and_then(of_deployment))
        .or_else(|| {
            let is_missed = component.ready() < component.replicas;
            is_missed.then(|| in_order(&component.ended).find_map(evicted))?
        })
}

fn in_order<'a>(pods: &[&'a Pod]) -> impl Iterator<Item = &'a Pod> {
    let mut pods = pods.to_vec();
    pods.sort_by_key(|pod| pod.name_any());
    pods.into_iter()
}

fn of_pod(pod: &Pod, obstacles: &Obstacles) -> Option<Trouble> {
    let in_containers = || {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses
            .iter()
            .filter(|status| !status.ready)
            .find_map(of_container)
    };
    let at_the_start = || {
        let obstacle = obstacles.get(pod.meta().uid.as_ref()?)?;
        Some((obstacle.reason, obstacle.message.clone()))
    };
    let (reason, message) = unschedulable(pod)
        .or_else(in_containers)
        .or_else(at_the_start)?;
    Some(trouble(pod, reason, &message))
}

/// The kubelet ended the pod; the message says which resource its node was short of.
fn evicted(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let is_evicted = status.reason.as_deref() == Some("Evicted");
    let message = status.message.clone().unwrap_or_default();
    is_evicted.then(|| trouble(pod, Reason::Evicted, &message))
}

fn trouble(pod: &Pod, reason: Reason, message: &str) -> Trouble {
    let message = format!("pod {}: {message}", pod.name_any());
    Trouble {
        reason,
        message: message.chars().take(MOST_CHARACTERS).collect(),
    }
}

fn unschedulable(pod: &Pod) -> Option<(Reason, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let message = condition.message.clone().unwrap_or_default();
    let asks_for_gpu = |resource: &String| message.contains(&format!("Insufficient {resource}"));
    let reason = if extended_resources(pod).any(asks_for_gpu) {
        Reason::InsufficientGpu
    } else if message.contains("persistentvolumeclaim") || message.contains("PersistentVolumeClaim")
    {
        Reason::VolumeUnavailable
    } else {
        Reason::Unschedulable
    };
    Some((reason, message))
}

/// Names such as `nvidia.com/gpu`; those of Kubernetes itself have no slash.
fn extended_resources(pod: &Pod) -> impl Iterator<Item = &String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.filter_map(|container| container.resources.as_ref()?.limits.as_ref());
    limits
        .flat_map(|limits| limits.keys())
        .filter(|name| name.contains('/'))
}

fn of_container(status: &ContainerStatus) -> Option<(Reason, String)> {
    let state = status.state.as_ref();
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref()).or(last);
    for (words, reason) in [
        (MODEL_INVALID, Reason::ModelInvalid),
        (DEVICE_FAILED, Reason::DeviceFailed),
    ] {
        if let Some(message) = ended.and_then(|ended| line_with(words, ended)) {
            return Some((reason, message));
        }
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let message = || {
        waiting
            .and_then(|waiting| waiting.message.clone())
            .unwrap_or_default()
    };
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            Some((
                Reason::ImagePullFailed,
                format!("image {}: {}", status.image, message()),
            ))
        }
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            Some((Reason::PodCreationFailed, message()))
        }
        Some("CrashLoopBackOff") => Some((Reason::CrashLooping, ending(ended))),
        _ => None,
    }
}

/// What the server said last, where it says so with these words.
fn line_with(words: &str, ended: &ContainerStateTerminated) -> Option<String> {
    let message = ended.message.as_ref()?;
    let fault = message.lines().find(|line| line.starts_with(words))?;
    Some(fault.to_owned())
}

fn ending(ended: Option<&ContainerStateTerminated>) -> String {
    let Some(ended) = ended else {
        return "the container ends again and again".to_owned();
    };
    let said = ended
        .message
        .as_deref()
        .map(str::trim)
        .filter(|message| !message.is_empty());
    let said = said.map_or_else(|| "see the pod's log".to_owned(), str::to_owned);
    match ended.reason.as_deref() {
        Some("OOMKilled") => "the container needed more than its memory limit".to_owned(),
        _ => format!(
            "the container ended with exit code {}: {said}",
            ended.exit_code
        ),
    }
}

fn of_deployment(deployment: &Deployment) -> Option<Trouble> {
    let mut conditions = deployment.status.as_ref()?.conditions.as_ref()?.iter();
    conditions.find_map(|condition| {
        let message = || condition.message.clone().unwrap_or_default();
        let told = (condition.type_.as_str(), condition.status.as_str());
        let (reason, message) = match (told, condition.reason.as_deref()) {
            (("ReplicaFailure", "True"), _) => (Reason::PodCreationFailed, message()),
            (("Progressing", "False"), Some("ProgressDeadlineExceeded")) => {
                (Reason::StartupDeadlineExceeded, STARTS_LONG.to_owned())
            }
            _ => return None,
        };
        Some(Trouble { reason, message })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, status: Value) -> Pod {
        let container = json!({"name": "server", "resources": {"limits": {"nvidia.com/gpu": "1"}}});
        let spec = json!({"containers": [container]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": status}))
            .unwrap()
    }

    fn container(state: Value, last: Value) -> Value {
        let status = json!({"name": "server", "image": "zimage-server:1", "imageID": "", "ready": false,
            "restartCount": 1, "state": state, "lastState": last});
        json!({"containerStatuses": [status]})
    }

    fn unschedulable(message: &str) -> Value {
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]})
    }

    /// The trouble of a component that asks for one pod, among these.
    fn found(pods: &[&Pod], deployment: Option<Deployment>) -> Option<Trouble> {
        find_at(pods, deployment, &Obstacles::default())
    }

    fn find_at(
        pods: &[&Pod],
        deployment: Option<Deployment>,
        obstacles: &Obstacles,
    ) -> Option<Trouble> {
        find(&ComponentState {
            replicas: 1,
            deployment,
            pods: pods.to_vec(),
            ended: Vec::new(),
            obstacles,
        })
    }

    fn reason(status: Value) -> Option<Reason> {
        found(&[&pod("a", status)], None).map(|trouble| trouble.reason)
    }

    #[test]
    fn a_pod_that_starts_is_no_trouble() {
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        assert_eq!(reason(container(creating, json!({}))), None);
        assert_eq!(reason(container(json!({"running": {}}), json!({}))), None);
    }

    #[test]
    fn a_missing_gpu_is_told_from_other_obstacles() {
        let gpu = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
        assert_eq!(reason(unschedulable(gpu)), Some(Reason::InsufficientGpu));
        let cpu = "0/3 nodes are available: 3 Insufficient cpu.";
        assert_eq!(reason(unschedulable(cpu)), Some(Reason::Unschedulable));
        let claim = "persistentvolumeclaim \"models\" not found";
        assert_eq!(
            reason(unschedulable(claim)),
            Some(Reason::VolumeUnavailable)
        );
    }

    #[test]
    fn the_fault_of_a_model_is_told_between_restarts_and_during_them() {
        let ended = json!({"terminated": {"exitCode": 3, "message": "loading\nmodel invalid: no file model_index.json\n"}});
        for (state, last) in [
            (ended.clone(), json!({})),
            (
                json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                ended.clone(),
            ),
            (json!({"running": {}}), ended),
        ] {
            let trouble = found(&[&pod("a", container(state, last))], None).unwrap();
            assert_eq!(trouble.reason, Reason::ModelInvalid);
            assert_eq!(
                trouble.message,
                "pod a: model invalid: no file model_index.json"
            );
        }
    }

    #[test]
    fn the_fault_of_a_device_is_told_until_the_pod_is_ready_again() {
        let ended = json!({"terminated": {"exitCode": 4, "message": "device failed: the GPU reports XID 79\n"}});
        let trouble = found(&[&pod("a", container(json!({"running": {}}), ended))], None);
        let told = Trouble {
            reason: Reason::DeviceFailed,
            message: "pod a: device failed: the GPU reports XID 79".to_owned(),
        };
        assert_eq!(trouble, Some(told));
    }

    #[test]
    fn a_crash_loop_says_how_it_ended() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let ended = json!({"terminated": {"exitCode": 2, "message": "no CUDA device"}});
        let trouble = found(&[&pod("a", container(waiting.clone(), ended))], None).unwrap();
        assert_eq!(trouble.reason, Reason::CrashLooping);
        assert!(
            trouble.message.ends_with("exit code 2: no CUDA device"),
            "{}",
            trouble.message
        );
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let trouble = found(&[&pod("a", container(waiting, killed))], None).unwrap();
        assert!(
            trouble.message.contains("memory limit"),
            "{}",
            trouble.message
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named() {
        let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        let trouble = found(&[&pod("a", container(waiting, json!({})))], None).unwrap();
        assert_eq!(trouble.message, "pod a: image zimage-server:1: not found");
        assert_eq!(trouble.reason, Reason::ImagePullFailed);
    }

    #[test]
    fn pods_that_the_api_server_refuses_are_told_by_the_deployment() {
        let failure =
            json!({"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"});
        let deployment: Deployment =
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [failure]}}))
                .unwrap();
        let trouble = found(&[], Some(deployment)).unwrap();
        assert_eq!(
            trouble,
            Trouble {
                reason: Reason::PodCreationFailed,
                message: "exceeded quota".to_owned()
            }
        );
    }

    #[test]
    fn pods_that_load_for_ten_minutes_are_told_by_the_deployment() {
        let late =
            json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"});
        let deployment: Deployment =
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [late]}}))
                .unwrap();
        let loading = pod("a", container(json!({"running": {}}), json!({})));
        let trouble = found(&[&loading], Some(deployment)).unwrap();
        assert_eq!(trouble.reason, Reason::StartupDeadlineExceeded);
    }

    #[test]
    fn what_keeps_a_pod_from_starting_is_told_by_its_uid() {
        let mut stuck = pod("a", json!({"phase": "Pending"}));
        stuck.metadata.uid = Some("pod-1".to_owned());
        let obstacle = Trouble {
            reason: Reason::VolumeUnavailable,
            message: "mount.nfs: Connection refused".to_owned(),
        };
        let obstacles = Obstacles::from([("pod-1".to_owned(), obstacle)]);
        let trouble = find_at(&[&stuck], None, &obstacles).unwrap();
        assert_eq!(trouble.reason, Reason::VolumeUnavailable);
        assert_eq!(trouble.message, "pod a: mount.nfs: Connection refused");
        stuck.metadata.uid = Some("pod-2".to_owned());
        assert_eq!(find_at(&[&stuck], None, &obstacles), None);
    }

    #[test]
    fn an_eviction_is_told_while_a_pod_is_missed() {
        let message = "The node was low on resource: ephemeral-storage.";
        let gone = pod(
            "a",
            json!({"phase": "Failed", "reason": "Evicted", "message": message}),
        );
        let starting = pod("b", json!({"phase": "Pending"}));
        let serving = pod(
            "b",
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
        );
        let with = |live: &Pod| {
            find(&ComponentState {
                replicas: 1,
                deployment: None,
                pods: vec![live],
                ended: vec![&gone],
                obstacles: &Obstacles::default(),
            })
        };
        let trouble = with(&starting).unwrap();
        assert_eq!(trouble.reason, Reason::Evicted);
        assert_eq!(trouble.message, format!("pod a: {message}"));
        assert_eq!(with(&serving), None);
    }
}
