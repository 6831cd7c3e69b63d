//! The operator goes and comes; the models do not notice.

use crate::images::{by_content, by_version, tag};
use crate::scene::{PATIENCE, Scene, tiers, with_scene_on};
use crate::system::{NAMESPACE, RELEASE, alone, install, upgrade};
use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use zimage_crds::Tier;
use zimage_tests::commands::kubectl;
use zimage_tests::manifest::Change;
use zimage_tests::{repository, wait};

/// Identity and restarts of every model and gateway pod.
async fn pods(scene: &Scene) -> Result<BTreeSet<(String, i32)>> {
    let mut pods = scene.gateway_pods().await?;
    for tier in Tier::ALL {
        pods.extend(scene.server_pods(tier).await?);
    }
    let restarts = |pod: &Pod| -> i32 {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref());
        statuses
            .into_iter()
            .flatten()
            .map(|container| container.restart_count)
            .sum()
    };
    Ok(pods
        .iter()
        .map(|pod| (pod.uid().unwrap_or_default(), restarts(pod)))
        .collect())
}

/// The present operator has seen a change of the spec that touches no pod.
async fn operator_acts(scene: &Scene, seconds: i32) -> Result<()> {
    scene
        .apply(&without_image().with("spec.traffic.shift.windowSeconds", json!(seconds)))
        .await?;
    scene.ready().await?;
    Ok(())
}

/// Tiers that run the operator's default image.
fn without_image() -> serde_json::Value {
    tiers()
        .without("spec.primary.image")
        .without("spec.fallback.image")
}

fn operators(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn roll_out() -> Result<()> {
    let deployment = format!("deployment/{RELEASE}");
    kubectl(
        &[
            "--namespace",
            NAMESPACE,
            "rollout",
            "status",
            &deployment,
            "--timeout=2m",
        ],
        "",
    )
    .await?;
    Ok(())
}

/// This chart as a later version.
async fn next_chart(folder: &Path) -> Result<()> {
    let copied = Command::new("cp")
        .arg("-rL")
        .arg(repository::path("charts/zimage-operator/."))
        .arg(folder)
        .status()?;
    anyhow::ensure!(copied.success(), "failed to copy the chart");
    let file = folder.join("Chart.yaml");
    let chart = std::fs::read_to_string(&file)?.replace("\nversion: ", "\nversion: 9");
    std::fs::write(&file, chart.replace("\nappVersion: ", "\nappVersion: 9"))
        .context("failed to write Chart.yaml")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_an_upgrade_of_the_operator_touch_no_pod() -> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    let chart = repository::path("charts/zimage-operator");
    let testserver = by_content("testserver")?;
    upgrade(&chart, tag(&by_content("operator")?), &testserver).await?;
    with_scene_on(client, without_image(), async |scene| {
        let before = pods(scene).await?;
        assert_eq!(before.len(), 3);

        operators(&scene.client)
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        roll_out().await?;
        operator_acts(scene, 31).await?;
        assert_eq!(pods(scene).await?, before, "after a restart");

        let folder = tempfile::tempdir()?;
        next_chart(folder.path()).await?;
        upgrade(
            folder.path(),
            tag(&by_version("operator")),
            &by_version("testserver"),
        )
        .await?;
        operator_acts(scene, 32).await?;
        assert_eq!(pods(scene).await?, before, "after an upgrade");
        Ok(())
    })
    .await?;
    install().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_replica_takes_over_when_the_leader_is_killed() -> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    with_scene_on(client, tiers(), async |scene| {
        let leases: Api<Lease> = Api::namespaced(scene.client.clone(), NAMESPACE);
        let holder = async || -> Result<Option<String>> {
            let lease = leases.get(RELEASE).await?;
            Ok(lease
                .spec
                .and_then(|spec| spec.holder_identity)
                .filter(|holder| !holder.is_empty()))
        };
        let first = wait::until("a leader", PATIENCE, &holder).await?;
        operators(&scene.client)
            .delete(&first, &DeleteParams::default().grace_period(0))
            .await?;
        wait::until("another leader", PATIENCE, async || {
            Ok(holder().await?.filter(|holder| *holder != first))
        })
        .await?;
        scene
            .apply(&tiers().with("spec.fallback.replicas", json!(2)))
            .await?;
        scene.ready().await?;
        assert_eq!(scene.server_pods(Tier::Fallback).await?.len(), 2);
        Ok(())
    })
    .await?;
    roll_out().await
}
