//! Pods whose packets are dropped, and pods that stand still: alive for the kubelet, or until it finds out.

use crate::load::{Answer, answered_by, during};
use crate::scene::{Scene, tiers, with_scene_on};
use crate::system::alone;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::node::{Frozen, Partition, address};
use zimage_tests::traffic::quantile;

const CLIENTS: usize = 4;
const CALM: Duration = Duration::from_secs(10);
/// By then the gateway knows which pods not to ask.
const LEARNT: Duration = Duration::from_secs(5);
const FAULT: Duration = Duration::from_secs(30);
const PARTITION: Duration = Duration::from_secs(300);
/// What requests may take longer before the gateway knows, and after.
const FIRST: Duration = Duration::from_millis(1500);
/// How long the gateway lets a pod be silent that has taken a request.
const SILENT: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_millis(50);
/// What a busy machine adds to the slowest hundredth.
const SCHEDULING: Duration = Duration::from_millis(150);

fn five() -> Value {
    tiers().with("spec.primary.replicas", json!(5))
}

/// 99 % of the requests that begin between the two moments take no longer.
fn slowest(answers: &[Answer], from: Instant, to: Instant) -> Duration {
    let times: Vec<_> = answers
        .iter()
        .filter(|answer| from <= answer.begun && answer.begun < to)
        .map(|answer| answer.took)
        .collect();
    quantile(&times, 0.99)
}

/// Four of five primary pods have `fault` under load. No request is lost; what begins within `learnt` takes at most
/// `first_longer` more than usual, and nothing does after that.
async fn slows_little<F>(
    learnt: Duration,
    first_longer: Duration,
    fault: impl AsyncFn(&Pod, &Pod) -> Result<F>,
) -> Result<()> {
    let (client, _operator) = alone().await?;
    with_scene_on(client, five(), async |scene| {
        let way = scene.gateway().await?;
        let gateways = scene.gateway_pods().await?;
        let gateway = gateways.first().context("there is a gateway pod")?;
        let pods = scene.server_pods(Tier::Primary).await?;
        let scenario = async {
            let calm = Instant::now();
            sleep(CALM).await;
            let begun = Instant::now();
            let mut faults = Vec::new();
            for pod in pods.iter().take(4) {
                faults.push(fault(gateway, pod).await?);
            }
            sleep(FAULT).await;
            let ended = Instant::now();
            drop(faults);
            Ok((calm, begun, ended))
        };
        let ((calm, begun, ended), answers) = during(&way, CLIENTS, scenario).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        let usual = slowest(&answers, calm, begun);
        let first = slowest(&answers, begun, begun + learnt);
        let later = slowest(&answers, begun + learnt, ended);
        let told = format!("usual {usual:?}, first {first:?}, later {later:?}");
        assert!(first <= usual + first_longer + SCHEDULING, "{told}");
        assert!(later <= usual + LATER + SCHEDULING, "{told}");
        scene.ready().await?;
        Ok(())
    })
    .await
}

async fn drop_packets(gateway: &Pod, server: &Pod) -> Result<Partition> {
    Partition::new(address(gateway)?, address(server)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_of_five_pods_that_drop_packets_slow_a_few_requests_and_lose_none() -> Result<()> {
    slows_little(LEARNT, FIRST, drop_packets).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_of_five_pods_that_stand_still_slow_a_few_requests_and_lose_none() -> Result<()> {
    slows_little(LEARNT * 2, SILENT, async |_, server| {
        Frozen::new(server).await
    })
    .await
}

async fn cut_off(scene: &Scene) -> Result<Vec<Partition>> {
    let gateways = scene.gateway_pods().await?;
    let gateway = gateways.first().context("there is a gateway pod")?;
    let mut partitions = Vec::new();
    for pod in scene.server_pods(Tier::Primary).await? {
        partitions.push(drop_packets(gateway, &pod).await?);
    }
    Ok(partitions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_tier_that_is_cut_off_for_five_minutes_leaves_the_images_to_the_fallback()
-> Result<()> {
    let (client, _operator) = alone().await?;
    let manifest = tiers()
        .with("spec.primary.replicas", json!(3))
        .with("spec.fallback.replicas", json!(2));
    with_scene_on(client, manifest, async |scene| {
        let way = scene.gateway().await?;
        let scenario = async {
            let begun = Instant::now();
            let partitions = cut_off(scene).await?;
            sleep(PARTITION).await;
            drop(partitions);
            Ok(begun)
        };
        let (begun, answers) = Box::pin(during(&way, CLIENTS, scenario)).await?;
        let after: Vec<_> = answers
            .iter()
            .filter(|answer| answer.begun > begun + LEARNT)
            .collect();
        let lost = after
            .iter()
            .filter(|answer| answer.outcome.is_err())
            .count();
        assert!(after.len() > 1000, "{} requests", after.len());
        assert!(lost * 1000 <= after.len(), "{lost} of {} lost", after.len());
        scene.ready().await?;
        Ok(())
    })
    .await
}
