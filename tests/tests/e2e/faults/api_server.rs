//! The control plane is away, or slow, for minutes.

use crate::load::{answered_by, during};
use crate::scene::{condition, restarts, tiers, with_scene_on};
use crate::system::alone;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::{Tier, ZImageDeployment};
use zimage_tests::manifest::Change;
use zimage_tests::node::{Slowed, Stopped};
use zimage_tests::wait;

const CLIENTS: usize = 4;
const OUTAGE: Duration = Duration::from_secs(60);
const LONG_OUTAGE: Duration = Duration::from_secs(600);
/// The operator has acted on a change by then.
const CURRENT: Duration = Duration::from_secs(30);

fn two_each() -> Value {
    tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.gateway.replicas", json!(2))
}

/// Requests go on during `outage`, no server and no gateway starts again, and the operator is current soon after it.
#[expect(clippy::print_stdout, reason = "the measured figures")]
async fn withstands(outage: impl Future<Output = Result<()>>) -> Result<()> {
    let (client, _operator) = alone().await?;
    with_scene_on(client, two_each(), async |scene| {
        let service = scene.service().await?;
        let outage = async {
            sleep(Duration::from_secs(1)).await;
            outage.await?;
            sleep(Duration::from_secs(1)).await;
            Ok(())
        };
        let ((), answers) = during(&service, CLIENTS, outage).await?;
        let ended = Instant::now();
        assert!(answered_by(Tier::Primary, &answers) > 0);

        let changed = || two_each().with("spec.fallback.replicas", json!(2));
        wait::until("the change to be applied", CURRENT, async || {
            Ok(Some(scene.apply(&changed()).await?))
        })
        .await?;
        let acted = |object: &ZImageDeployment| {
            let observed = object
                .status
                .as_ref()
                .and_then(|status| status.observed_generation);
            observed == object.metadata.generation
                && condition(object, "Ready").is_some_and(|(status, _)| status == "True")
        };
        scene.until("the operator to act", acted).await?;
        let took = ended.elapsed();
        println!(
            "{} requests answered; the operator is current {took:?} later",
            answers.len()
        );
        assert!(took <= CURRENT, "current after {took:?}");
        assert_eq!(scene.server_pods(Tier::Fallback).await?.len(), 2);
        let pods = scene.every_pod().await?;
        assert_eq!(pods.iter().map(restarts).sum::<i32>(), 0);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_for_a_minute_costs_no_request_and_the_operator_is_current_soon()
-> Result<()> {
    withstands(without_api_server(OUTAGE)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_for_ten_minutes_costs_no_request_and_the_operator_is_current_soon()
-> Result<()> {
    withstands(without_api_server(LONG_OUTAGE)).await
}

async fn without_api_server(time: Duration) -> Result<()> {
    let _stopped = Stopped::new("kube-apiserver")?;
    sleep(time).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_takes_five_seconds_a_write_costs_no_request_and_the_operator_is_current_soon()
-> Result<()> {
    withstands(async {
        let _slowed = Slowed::new("etcd", Duration::from_secs(5));
        sleep(OUTAGE).await;
        Ok(())
    })
    .await
}
