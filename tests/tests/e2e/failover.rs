//! Pods that go away take no request with them.

use crate::load::{answered_by, during};
use crate::scene::{PATIENCE, Scene, tiers, with_scene};
use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::{Tier, TrafficState};
use zimage_tests::manifest::Change;
use zimage_tests::wait;

const CLIENTS: usize = 4;
const MOVE_LIMIT: Duration = Duration::from_secs(2);

fn two_each() -> serde_json::Value {
    tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.fallback.replicas", json!(2))
}

/// Ends a tier's pods at once, as a machine that fails does: no grace, no drain.
async fn kill(scene: &Scene, tier: Tier, count: usize) -> Result<()> {
    for pod in scene.server_pods(tier).await?.iter().take(count) {
        scene
            .pods()
            .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_primary_pod_under_load_loses_no_request() -> anyhow::Result<()> {
    with_scene(two_each(), async |scene| {
        let gateway = scene.gateway().await?;
        let scenario = async {
            sleep(Duration::from_secs(1)).await;
            kill(scene, Tier::Primary, 1).await?;
            sleep(Duration::from_secs(4)).await;
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
                kill(scene, Tier::Primary, 2),
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
