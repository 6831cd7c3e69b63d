//! The kernel ends a process that takes more memory than its container may have.

use crate::load::{Answer, answered_by, during};
use crate::scene::{PATIENCE, Scene, tiers, with_scene};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::node::exhaust_memory;
use zimage_tests::wait;

const CLIENTS: usize = 4;
/// After this nothing is lost any more because a gateway was ended: kube-proxy knows that the pod is not ready.
const NOTICED: Duration = Duration::from_secs(5);

/// Two pods of each part, of little memory.
fn limited() -> Value {
    let resources =
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}});
    tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.primary.resources", resources.clone())
        .with("spec.gateway.replicas", json!(2))
        .with("spec.gateway.resources", resources)
}

/// Exhausts the memory of a pod under load, through the Service; when that began, and what the clients got.
async fn exhaust_under_load(scene: &Scene, pod: &Pod) -> Result<(Instant, Vec<Answer>)> {
    let service = scene.service().await?;
    let scenario = async {
        sleep(Duration::from_secs(2)).await;
        let begun = Instant::now();
        exhaust_memory(pod).await?;
        let pods = scene.pods();
        wait::until("the container to be OOMKilled", PATIENCE, async || {
            let pod = pods.get(&pod.name_any()).await?;
            Ok(was_ended_for_memory(&pod).then_some(()))
        })
        .await?;
        sleep(NOTICED * 2).await;
        Ok(begun)
    };
    let outcome = during(&service, CLIENTS, scenario).await?;
    scene.ready().await?;
    Ok(outcome)
}

fn was_ended_for_memory(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses);
    statuses.flatten().any(|status| {
        let states = [&status.state, &status.last_state];
        let ended = states
            .into_iter()
            .filter_map(|state| state.as_ref()?.terminated.as_ref());
        ended
            .filter_map(|ended| ended.reason.as_deref())
            .any(|reason| reason == "OOMKilled")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_the_kernel_ends_for_its_memory_loses_no_request() -> Result<()> {
    with_scene(limited(), async |scene| {
        let pods = scene.server_pods(Tier::Primary).await?;
        let pod = pods.first().context("there is a primary pod")?;
        let (_, answers) = exhaust_under_load(scene, pod).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_the_kernel_ends_for_its_memory_loses_what_it_had_in_flight_at_the_most()
-> Result<()> {
    with_scene(limited(), async |scene| {
        let pods = scene.gateway_pods().await?;
        let pod = pods.first().context("there is a gateway pod")?;
        let (exhausted, answers) = exhaust_under_load(scene, pod).await?;
        let lost: Vec<_> = answers
            .iter()
            .filter(|answer| answer.outcome.is_err())
            .collect();
        // Until kube-proxy knows, new connections are refused: nothing was sent over those.
        let late = lost
            .iter()
            .filter(|answer| answer.begun > exhausted + NOTICED)
            .count();
        assert_eq!(late, 0, "lost long after the end: {lost:?}");
        let early = lost
            .iter()
            .filter(|answer| answer.begun < exhausted)
            .count();
        assert!(early <= CLIENTS, "{lost:?}");
        assert!(
            answers.len() > lost.len() * 2,
            "{} of {}",
            lost.len(),
            answers.len()
        );
        Ok(())
    })
    .await
}
