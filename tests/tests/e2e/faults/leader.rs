//! A leader that can no longer renew its lease, by the API server's own record of who wrote what and when.

use crate::scene::{Scene, tiers, with_scene_on};
use crate::system::{NAMESPACE, alone};
use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::node::{Frozen, Partition, address, exec};
use zimage_tests::wait;

/// Where the API server listens.
const API_SERVER: &str = "10.88.0.1";
/// Longer than the lease.
const AWAY: Duration = Duration::from_secs(60);
/// How long a lease holds after it was renewed.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);

/// The operator's pod that leads.
async fn leader(client: &Client) -> Result<Pod> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    wait::until("a leader", PATIENCE, async || {
        let holders = leases.list(&ListParams::default()).await?.items;
        let holders = holders
            .into_iter()
            .filter_map(|lease| lease.spec?.holder_identity);
        for holder in holders {
            if let Some(pod) = pods.get_opt(&holder).await? {
                return Ok(Some(pod));
            }
        }
        Ok(None)
    })
    .await
}

/// A successful write of an operator's pod.
struct Write {
    pod: String,
    lease: bool,
    at: Timestamp,
}

async fn writes() -> Result<Vec<Write>> {
    let log = exec(&["cat", "/run/cluster/log/audit.log"]).await?;
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let written = |event: &Value| -> Option<Write> {
        let user = event["user"]["username"].as_str()?;
        let succeeded = event["responseStatus"]["code"].as_u64()? < 300;
        if !user.starts_with(&format!("system:serviceaccount:{NAMESPACE}:")) || !succeeded {
            return None;
        }
        Some(Write {
            pod: event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]
                .as_str()?
                .to_owned(),
            lease: event["objectRef"]["resource"] == "leases",
            at: event["requestReceivedTimestamp"].as_str()?.parse().ok()?,
        })
    };
    Ok(events.filter_map(|event| written(&event)).collect())
}

/// Changes the object again and again, so that a leader has something to write, until `end`.
async fn with_changes(scene: &Scene, end: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut seconds = 31;
    while begun.elapsed() < end {
        scene
            .apply(&tiers().with("spec.traffic.shift.windowSeconds", json!(seconds)))
            .await?;
        seconds = if seconds == 31 { 32 } else { 31 };
        sleep(Duration::from_secs(2)).await;
    }
    Ok(())
}

/// A leader that is cut off by `fault` writes nothing once its lease may have been taken, and another acts.
async fn steps_down<F>(fault: impl AsyncFnOnce(&Pod) -> Result<F>) -> Result<()> {
    let (client, _operator) = alone().await?;
    with_scene_on(client, tiers(), async |scene| {
        let former = leader(&scene.client).await?;
        let name = former.metadata.name.clone().context("the pod has a name")?;
        let fault = fault(&former).await?;
        with_changes(scene, AWAY).await?;
        drop(fault);
        with_changes(scene, Duration::from_secs(20)).await?;
        scene
            .apply(&tiers().with("spec.fallback.replicas", json!(2)))
            .await?;
        scene.ready().await?;
        assert_eq!(scene.server_pods(Tier::Fallback).await?.len(), 2);

        let writes = writes().await?;
        // Every pod that ever led: none writes later than its lease holds from its last renewal.
        for write in &writes {
            let renewals = writes
                .iter()
                .filter(|other| other.pod == write.pod && other.lease && other.at <= write.at);
            let renewed = renewals.map(|renewal| renewal.at).max();
            let renewed = renewed.with_context(|| format!("{} wrote and never led", write.pod))?;
            let since = write.at.duration_since(renewed);
            assert!(
                since <= LEASE,
                "{} wrote {since:?} after its last renewal",
                write.pod
            );
        }
        let others = writes
            .iter()
            .filter(|write| write.pod != name && !write.lease);
        assert!(others.count() > 0, "no other pod took over");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_packets_are_dropped_writes_nothing_after_its_lease() -> Result<()> {
    steps_down(async |leader| Partition::new(address(leader)?, API_SERVER).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_for_a_minute_writes_nothing_when_it_goes_on() -> Result<()> {
    steps_down(async |leader| Frozen::new(leader).await).await
}
