//! The operator goes and comes; the models do not notice.

use crate::images::{by_content, by_version, tag, variant};
use crate::load::{answered_by, send};
use crate::scene::{PATIENCE, Scene, restarts, tiers, with_scene_on};
use crate::system::{Images, NAMESPACE, RELEASE, alone, chart, restored, upgrade};
use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use zimage_crds::Tier;
use zimage_tests::commands::kubectl;
use zimage_tests::manifest::Change;
use zimage_tests::namespace::with_namespace;
use zimage_tests::node::{Stopped, kill_container, of};
use zimage_tests::wait;

const SECOND: Duration = Duration::from_secs(1);
/// How long the operator's lease holds, and how much of that is left when it is renewed.
const LEASE: Duration = Duration::from_secs(15);
const RENEWED_BEFORE_ITS_END: Duration = Duration::from_secs(5);
/// How long a rolling restart may leave the lease to nobody.
const WITHOUT_LEADER: Duration = Duration::from_secs(2);

/// Identity and restarts of every model and gateway pod.
async fn pods(scene: &Scene) -> Result<BTreeSet<(String, i32)>> {
    let pods = scene.every_pod().await?;
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

/// The pod that the lease names.
async fn holder(leases: &Api<Lease>) -> Result<Option<String>> {
    let spec = leases.get(RELEASE).await?.spec;
    let holder = spec.and_then(|spec| spec.holder_identity);
    Ok(holder.filter(|holder| !holder.is_empty()))
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
        .arg(chart().join("."))
        .arg(folder)
        .status()?;
    anyhow::ensure!(copied.success(), "failed to copy the chart");
    let file = folder.join("Chart.yaml");
    let chart = std::fs::read_to_string(&file)?.replace("\nversion: ", "\nversion: 9");
    std::fs::write(&file, chart.replace("\nappVersion: ", "\nappVersion: 9"))
        .context("failed to write Chart.yaml")
}

/// The operator's image with a file more, known to the node: other content under another name, as a release brings it.
async fn next_operator() -> Result<String> {
    variant("operator", "next", r#"echo next > "$root/etc/next""#).await
}

/// The images that the operator's pods run.
async fn running(client: &Client) -> Result<BTreeSet<String>> {
    let pods = operators(client).list(&ListParams::default()).await?;
    let present = pods
        .items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let containers = present.flat_map(|pod| pod.spec.unwrap_or_default().containers);
    Ok(containers.filter_map(|container| container.image).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_an_upgrade_of_the_operator_touch_no_pod() -> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    let ours = Images {
        server: by_content("testserver")?,
        ..Images::ours()?
    };
    restored(async {
        upgrade(&chart(), &ours, &[]).await?;
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
            let next = Images {
                operator: next_operator().await?,
                server: by_version("testserver"),
                gateway: by_version("gateway"),
            };
            assert_ne!(tag(&next.operator), tag(&ours.operator));
            let values = ["log.level=debug", "resources.requests.cpu=40m"];
            upgrade(folder.path(), &next, &values).await?;
            operator_acts(scene, 32).await?;
            assert_eq!(
                running(&scene.client).await?,
                BTreeSet::from([next.operator])
            );
            assert_eq!(pods(scene).await?, before, "after an upgrade");
            Ok(())
        })
        .await
    })
    .await
}

/// The longest time for which nobody held the lease, until `end`.
async fn longest_without_leader(client: &Client, end: CancellationToken) -> Result<Duration> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let (mut led, mut longest) = (Instant::now(), Duration::ZERO);
    while !end.is_cancelled() {
        let asked = Instant::now();
        if holder(&leases).await?.is_some() {
            longest = longest.max(asked.saturating_duration_since(led));
            led = Instant::now();
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(longest.max(led.elapsed()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_leaves_the_lease_to_nobody_for_two_seconds_at_the_most()
-> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    let end = CancellationToken::new();
    let restarts = async {
        for _ in 0..3 {
            let deployment = format!("deployment/{RELEASE}");
            kubectl(
                &["--namespace", NAMESPACE, "rollout", "restart", &deployment],
                "",
            )
            .await?;
            roll_out().await?;
        }
        end.cancel();
        anyhow::Ok(())
    };
    let (longest, ()) = tokio::try_join!(longest_without_leader(&client, end.clone()), restarts)?;
    println!("three rolling restarts: {longest:?} without a leader at the most");
    assert!(longest <= WITHOUT_LEADER, "nobody led for {longest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_replica_takes_over_when_the_killed_leaders_lease_has_run_out()
-> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    with_scene_on(client, tiers(), async |scene| {
        let leases: Api<Lease> = Api::namespaced(scene.client.clone(), NAMESPACE);
        let first = wait::until("a leader", PATIENCE, async || holder(&leases).await).await?;
        let leader = operators(&scene.client).get(&first).await?;
        // A kubelet that stands still starts no process again: the leader is gone like one whose machine failed.
        let kubelet = Stopped::on(of(&leader)?, "kubelet")?;
        kill_container(&leader).await?;
        let killed = Instant::now();
        wait::until("another leader", PATIENCE, async || {
            Ok(holder(&leases).await?.filter(|holder| *holder != first))
        })
        .await?;
        let took = killed.elapsed();
        drop(kubelet);
        assert!(
            RENEWED_BEFORE_ITS_END - SECOND <= took,
            "after {took:?}: the lease was given back, so this was no kill"
        );
        assert!(took <= LEASE + 5 * SECOND, "after {took:?}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_rights_in_one_namespace_alone_the_operator_serves_it() -> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    restored(with_namespace(client, async |client, namespace| {
        let watched = format!("watchNamespaces={{{namespace}}}");
        let values = [watched.as_str(), "rbac.clusterWide=false"];
        upgrade(&chart(), &Images::ours()?, &values).await?;
        let scene = Scene { client, namespace };
        scene.make_claim("models").await?;
        scene.apply(&tiers()).await?;
        scene.ready().await?;
        let answers = send(&scene.gateway().await?, 10, 1).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        Ok(())
    }))
    .await
}
