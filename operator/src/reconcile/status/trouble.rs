//! Why a part has no ready pod, in words that say what to do. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use zimage_crds::Reason;

/// What the server writes before the fault of its checkpoint, and ends with.
pub const MODEL_INVALID: &str = "model invalid:";
/// Kubernetes limits a condition's message to 32 KiB and an event's note to 1 KiB.
const MOST_CHARACTERS: usize = 900;

/// A reason and a message that names the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// The first trouble of a part: of its pods in the order of their names, then of its Deployment.
pub(super) fn find(pods: &[&Pod], deployment: Option<&Deployment>) -> Option<Trouble> {
    let mut pods: Vec<_> = pods.to_vec();
    pods.sort_by_key(|pod| pod.name_any());
    pods.into_iter()
        .find_map(of_pod)
        .or_else(|| deployment.and_then(of_deployment))
}

fn of_pod(pod: &Pod) -> Option<Trouble> {
    let (reason, message) = unschedulable(pod).or_else(|| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses
            .iter()
            .filter(|status| !status.ready)
            .find_map(of_container)
    })?;
    let message = format!("pod {}: {message}", pod.name_any());
    Some(Trouble {
        reason,
        message: message.chars().take(MOST_CHARACTERS).collect(),
    })
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
    if let Some(message) = ended.and_then(model_fault) {
        return Some((Reason::ModelInvalid, message));
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

fn model_fault(ended: &ContainerStateTerminated) -> Option<String> {
    let message = ended.message.as_ref()?;
    let fault = message
        .lines()
        .find(|line| line.starts_with(MODEL_INVALID))?;
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
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failure.message.clone().unwrap_or_default();
    Some(Trouble {
        reason: Reason::PodCreationFailed,
        message,
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

    fn reason(status: Value) -> Option<Reason> {
        find(&[&pod("a", status)], None).map(|trouble| trouble.reason)
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
            let trouble = find(&[&pod("a", container(state, last))], None).unwrap();
            assert_eq!(trouble.reason, Reason::ModelInvalid);
            assert_eq!(
                trouble.message,
                "pod a: model invalid: no file model_index.json"
            );
        }
    }

    #[test]
    fn a_crash_loop_says_how_it_ended() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let ended = json!({"terminated": {"exitCode": 2, "message": "no CUDA device"}});
        let trouble = find(&[&pod("a", container(waiting.clone(), ended))], None).unwrap();
        assert_eq!(trouble.reason, Reason::CrashLooping);
        assert!(
            trouble.message.ends_with("exit code 2: no CUDA device"),
            "{}",
            trouble.message
        );
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let trouble = find(&[&pod("a", container(waiting, killed))], None).unwrap();
        assert!(
            trouble.message.contains("memory limit"),
            "{}",
            trouble.message
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named() {
        let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        let trouble = find(&[&pod("a", container(waiting, json!({})))], None).unwrap();
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
        let trouble = find(&[], Some(&deployment)).unwrap();
        assert_eq!(
            trouble,
            Trouble {
                reason: Reason::PodCreationFailed,
                message: "exceeded quota".to_owned()
            }
        );
    }
}
