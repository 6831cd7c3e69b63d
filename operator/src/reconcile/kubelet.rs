//! Why pods do not start: what the kubelet tells as events and nowhere else.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use std::collections::HashMap;
use std::time::Duration;
use zimage_crds::Reason;

/// Pods that are asked about in one reconciliation: others of a component most often wait for the same.
const MOST_PODS: usize = 3;
/// Events that are read of a pod. Repeated ones are one event with a count.
const MOST_EVENTS: u32 = 50;
/// Time for one call: what it would tell is worth no more.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which a pod that still has not started is asked about again.
pub(super) const AGAIN: Duration = Duration::from_secs(20);

/// What keeps a pod or a component from being ready: a reason, and what there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// The latest obstacle of each pod that waits for one, by the pod's UID.
pub(super) type Obstacles = HashMap<String, Trouble>;

/// Whether a pod has its node and waits for its volumes, its network or its containers.
pub(super) fn is_starting(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let is_pending = status.and_then(|status| status.phase.as_deref()) == Some("Pending");
    let has_node = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let mut containers = status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let are_created = containers.any(|container| {
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) != Some("ContainerCreating")
    });
    is_pending && has_node && !are_created
}

/// What keeps pods from starting.
pub(super) async fn obstacles<'a>(
    client: &Client,
    pods: impl Iterator<Item = &'a Pod>,
) -> Obstacles {
    let mut obstacles = Obstacles::new();
    for pod in pods.filter(|pod| is_starting(pod)).take(MOST_PODS) {
        let Some(uid) = pod.uid() else { continue };
        match latest(client, pod, &uid).await {
            Ok(Some(obstacle)) => drop(obstacles.insert(uid, obstacle)),
            Ok(None) => {}
            // The status says less; it is no reason to fail.
            Err(error) => tracing::debug!(pod = pod.name_any(), %error, "failed to read events"),
        }
    }
    obstacles
}

async fn latest(client: &Client, pod: &Pod, uid: &str) -> anyhow::Result<Option<Trouble>> {
    let api: Api<Event> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let of_the_pod = ListParams::default()
        .fields(&format!("involvedObject.uid={uid},type=Warning"))
        .limit(MOST_EVENTS);
    let events = tokio::time::timeout(PATIENCE, api.list(&of_the_pod)).await??;
    let latest = events
        .into_iter()
        .filter(|event| reason(event).is_some())
        .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    Ok(latest.and_then(|event| {
        Some(Trouble {
            reason: reason(&event)?,
            message: event.message.unwrap_or_default(),
        })
    }))
}

fn reason(event: &Event) -> Option<Reason> {
    match event.reason.as_deref()? {
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => Some(Reason::VolumeUnavailable),
        "FailedCreatePodSandBox" | "NetworkNotReady" => Some(Reason::PodCreationFailed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "fox-primary-1", "namespace": "art", "uid": "pod-1"},
            "spec": {"containers": [], "nodeName": "node-1"},
            "status": status,
        }))
        .unwrap()
    }

    fn creating() -> Pod {
        let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
        let container = json!({"name": "server", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": waiting});
        pod(json!({"phase": "Pending", "containerStatuses": [container]}))
    }

    fn event(name: &str, reason: &str, second: u8, message: &str) -> Value {
        json!({"metadata": {"name": name}, "involvedObject": {"uid": "pod-1"}, "reason": reason,
            "lastTimestamp": format!("2026-01-01T00:00:0{second}Z"), "message": message})
    }

    #[tokio::test]
    async fn the_latest_obstacle_of_a_pod_that_has_not_started_is_told() {
        let client = fake_api::client(|call| {
            assert!(
                call.path.ends_with("/namespaces/art/events"),
                "{}",
                call.path
            );
            let events = [
                event("a", "FailedScheduling", 9, "no node"),
                event("b", "FailedMount", 5, "mount.nfs: Connection refused"),
                event("c", "FailedCreatePodSandBox", 1, "no address"),
            ];
            (
                200,
                json!({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": events}),
            )
        });
        let obstacles = obstacles(&client, [creating()].iter()).await;
        let obstacle = &obstacles["pod-1"];
        assert_eq!(obstacle.reason, Reason::VolumeUnavailable);
        assert_eq!(obstacle.message, "mount.nfs: Connection refused");
    }

    #[tokio::test]
    async fn pods_that_run_or_have_no_node_are_not_asked_about() {
        let client = fake_api::client(|call| panic!("asked for {}", call.path));
        let mut without_node = creating();
        without_node.spec = None;
        let pods = [pod(json!({"phase": "Running"})), without_node];
        assert!(obstacles(&client, pods.iter()).await.is_empty());
    }

    #[tokio::test]
    async fn events_that_cannot_be_read_are_no_obstacle() {
        let client = fake_api::client(|_| fake_api::refusal(403, "no right to events"));
        assert!(obstacles(&client, [creating()].iter()).await.is_empty());
    }
}
