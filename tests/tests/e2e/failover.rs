//! Pods that go away take no request with them.

use crate::figures;
use crate::load::{Answer, answered_by, during};
use crate::scene::{PATIENCE, Scene, tiers, with_scene};
use crate::testserver::control;
use anyhow::{Context, Result};
use futures::TryStreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::{Tier, TrafficState};
use zimage_tests::manifest::Change;
use zimage_tests::node::kill_container;
use zimage_tests::wait;

const CLIENTS: usize = 4;
const MOVE_LIMIT: Duration = Duration::from_secs(2);

fn two_each() -> serde_json::Value {
    tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.fallback.replicas", json!(2))
}

/// Deletes the primary tier's pods. The API server forgets them at once, and the kubelet ends them with SIGTERM and the
/// shortest grace that it knows, two seconds.
async fn delete_primary(scene: &Scene) -> Result<()> {
    for pod in scene.server_pods(Tier::Primary).await? {
        scene
            .pods()
            .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await?;
    }
    Ok(())
}

/// Kills processes of the primary tier while each has a request on its device: SIGKILL, as the kernel does when memory
/// runs out.
async fn kill_primary_under_load(scene: &Scene, processes: usize) -> Result<()> {
    // An image takes 0.8 s or more, so that a request is cut.
    control(scene, Tier::Primary, &json!({"step_milliseconds": 100})).await?;
    let gateway = scene.gateway().await?;
    let scenario = async {
        sleep(Duration::from_secs(2)).await;
        let pods = scene.server_pods(Tier::Primary).await?;
        try_join_all(pods.iter().take(processes).map(kill_container)).await?;
        sleep(Duration::from_secs(5)).await;
        Ok(())
    };
    let ((), answers) = during(&gateway, CLIENTS, scenario).await?;
    // A request is sent to two pods at the most: it is lost with them when both are killed while they work on it.
    let cost_two_pods = |answer: &Answer| {
        let outcome = answer.outcome.as_ref();
        outcome.is_err_and(|error| error.contains("request_lost"))
    };
    let (lost, answers): (Vec<_>, Vec<_>) = answers.into_iter().partition(cost_two_pods);
    let most = if processes > 1 { CLIENTS } else { 0 };
    assert!(lost.len() <= most, "{} requests lost", lost.len());
    assert!(
        answered_by(Tier::Primary, &answers) > 0,
        "{} answers",
        answers.len()
    );
    let pods = scene.server_pods(Tier::Primary).await?;
    assert_eq!(pods.iter().filter(|pod| was_killed(pod)).count(), processes);
    gateway_passed_on(scene).await
}

/// Whether the former process of the pod's container ended by SIGKILL.
fn was_killed(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses);
    let former = statuses
        .flatten()
        .filter_map(|status| status.last_state.as_ref()?.terminated.as_ref());
    former.into_iter().any(|ended| ended.exit_code == 128 + 9)
}

/// Whether the gateway tells, in its figures and in its log, of requests that another attempt answered.
async fn gateway_passed_on(scene: &Scene) -> Result<()> {
    let gateways = scene.gateway_pods().await?;
    let gateway = gateways.first().context("there is a gateway pod")?;
    let figures = figures::scrape(scene.pods(), gateway).await?;
    let name = "zimage_gateway_passed_on_total";
    assert!(
        figures::total(&figures, name, "tier=\"primary\"") >= 1,
        "{figures}"
    );
    let log = scene
        .pods()
        .logs(&gateway.name_any(), &LogParams::default())
        .await?;
    // A line of the access log is a JSON object.
    let requests = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let again = requests
        .filter(|line| line["status"] == 200 && line["attempts"].as_u64() > Some(1))
        .count();
    assert!(again >= 1, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_process_that_is_killed_with_requests_in_flight_loses_none() -> anyhow::Result<()>
{
    with_scene(two_each(), async |scene| {
        kill_primary_under_load(scene, 1).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_tier_that_is_killed_loses_only_what_two_of_its_pods_had() -> anyhow::Result<()> {
    with_scene(two_each(), async |scene| {
        kill_primary_under_load(scene, 2).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_every_pod_of_a_tier_under_load_loses_no_request() -> anyhow::Result<()> {
    with_scene(two_each(), async |scene| {
        let gateway = scene.gateway().await?;
        let scenario = async {
            scene
                .apply(&two_each().with(
                    "spec.primary.env",
                    json!([{"name": "ROLLOUT", "value": "2"}]),
                ))
                .await?;
            scene.ready().await?;
            Ok(())
        };
        let ((), answers) = during(&gateway, CLIENTS, scenario).await?;
        assert!(
            answered_by(Tier::Primary, &answers) > 0,
            "{} answers",
            answers.len()
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_every_gateway_pod_under_load_loses_no_request() -> anyhow::Result<()> {
    let two_gateways = || two_each().with("spec.gateway.replicas", json!(2));
    with_scene(two_gateways(), async |scene| {
        let former = names(&scene.gateway_pods().await?);
        let service = scene.service().await?;
        let scenario = async {
            scene
                .apply(&two_gateways().with("spec.gateway.requestTimeoutSeconds", json!(899)))
                .await?;
            scene.ready().await?;
            wait::until("the former gateway pods to be gone", PATIENCE, async || {
                let pods = scene.pods().list(&ListParams::default()).await?.items;
                Ok(names(&pods).is_disjoint(&former).then_some(()))
            })
            .await
        };
        let ((), answers) = during(&service, CLIENTS, scenario).await?;
        assert!(
            answered_by(Tier::Primary, &answers) > 0,
            "{} answers",
            answers.len()
        );
        Ok(())
    })
    .await
}

fn names(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_all_primary_pods_moves_everything_to_the_fallback_within_two_seconds()
-> anyhow::Result<()> {
    with_scene(two_each(), async |scene| {
        let gateway = scene.gateway().await?;
        let quotas: Api<ResourceQuota> = Api::namespaced(scene.client.clone(), &scene.namespace);
        let scenario = Box::pin(async {
            forbid_new_pods(&quotas).await?;
            let (gone, (moved, state), ()) = tokio::try_join!(
                last_primary_endpoint_gone(scene),
                async {
                    let everything = |split: &zimage_crds::TrafficStatus| split.split == "0/100";
                    let state = scene.until_traffic("0/100", PATIENCE, everything).await?;
                    Ok((Instant::now(), state))
                },
                delete_primary(scene),
            )?;
            sleep(Duration::from_secs(2)).await;
            Ok((gone, moved, state))
        });
        let ((gone, moved, state), answers) = during(&gateway, CLIENTS, scenario).await?;
        let took = moved.saturating_duration_since(gone);
        assert!(took <= MOVE_LIMIT, "{took:?} after the last ready endpoint");
        assert_eq!(
            (state.state, state.reason.as_str()),
            (TrafficState::PrimaryDown, "PrimaryUnavailable")
        );
        answered_by(Tier::Fallback, &answers);
        let late: Vec<_> = answers
            .into_iter()
            .filter(|answer| answer.begun > moved)
            .collect();
        assert_eq!(answered_by(Tier::Fallback, &late), late.len());
        assert!(!late.is_empty());

        quotas
            .delete("no-new-pods", &DeleteParams::default())
            .await?;
        scene
            .until_traffic("the way back", PATIENCE, |split| split.split == "90/10")
            .await?;
        Ok(())
    })
    .await
}

/// Pods that run stay, replacements are refused.
async fn forbid_new_pods(quotas: &Api<ResourceQuota>) -> Result<()> {
    let quota: ResourceQuota = serde_json::from_value(
        json!({"metadata": {"name": "no-new-pods"}, "spec": {"hard": {"pods": "0"}}}),
    )?;
    quotas.create(&PostParams::default(), &quota).await?;
    wait::until("the quota to be counted", PATIENCE, async || {
        let status = quotas.get("no-new-pods").await?.status;
        Ok(status
            .and_then(|status| status.used)
            .filter(|used| !used.is_empty()))
    })
    .await?;
    Ok(())
}

/// When the primary tier's EndpointSlices have no ready endpoint any more.
async fn last_primary_endpoint_gone(scene: &Scene) -> Result<Instant> {
    let slices: Api<EndpointSlice> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let selector = "kubernetes.io/service-name=fox-primary";
    let slice = slices
        .list(&ListParams::default().labels(selector))
        .await?
        .items
        .pop();
    let name = slice
        .context("the primary tier has an EndpointSlice")?
        .name_any();
    let mut changes = pin!(
        watcher(
            slices,
            watcher::Config::default().fields(&format!("metadata.name={name}"))
        )
        .applied_objects()
    );
    while let Some(slice) = changes.try_next().await? {
        let ready = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
            endpoint
                .conditions
                .as_ref()
                .is_some_and(|conditions| conditions.ready == Some(true))
        };
        if !slice.endpoints.iter().any(ready) {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the watch ended")
}
