//! The API server stands still; the images go on.

use crate::load::{answered_by, during};
use crate::scene::{tiers, with_scene_on};
use crate::system::alone;
use anyhow::Context;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::node::{Stopped, kill_container};

const CLIENTS: usize = 4;
/// Longer than the operator's lease, shorter than what makes a node NotReady.
const OUTAGE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_the_api_server_is_away_and_the_operator_acts_when_it_is_back()
-> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    let manifest = tiers().with("spec.primary.replicas", json!(2));
    with_scene_on(client, manifest.clone(), async |scene| {
        let service = scene.service().await?;
        let pods = scene.server_pods(Tier::Primary).await?;
        let scenario = async {
            sleep(Duration::from_secs(1)).await;
            let outage = Stopped::new("kube-apiserver")?;
            let begun = Instant::now();
            sleep(OUTAGE / 2).await;
            // Nothing tells the gateway of this one but the connection itself.
            kill_container(pods.first().context("there is a primary pod")?).await?;
            sleep(OUTAGE / 2).await;
            let ended = Instant::now();
            drop(outage);
            Ok((begun, ended))
        };
        let ((begun, ended), answers) = during(&service, CLIENTS, scenario).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        let meanwhile = answers
            .iter()
            .filter(|answer| begun < answer.begun && answer.begun < ended)
            .count();
        assert!(meanwhile > 100, "{meanwhile} requests during the outage");

        scene
            .apply(&manifest.with("spec.fallback.replicas", json!(2)))
            .await?;
        scene.ready().await?;
        assert_eq!(scene.server_pods(Tier::Fallback).await?.len(), 2);
        Ok(())
    })
    .await
}
