//! A request that its pod does not survive.

use crate::load::{answered_by, send};
use crate::scene::{Scene, restarts as of, tiers, with_scene};
use crate::testserver::control;
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;
use zimage_crds::Tier;
use zimage_tests::manifest::Change;

/// How many pods one request may cost.
const MOST: i32 = 2;

async fn restarts(scene: &Scene) -> Result<i32> {
    let mut restarts = 0;
    for tier in Tier::ALL {
        restarts += scene.server_pods(tier).await?.iter().map(of).sum::<i32>();
    }
    Ok(restarts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_its_pod_reaches_two_pods_at_the_most() -> Result<()> {
    let manifest = tiers()
        .with("spec.primary.replicas", json!(3))
        .with("spec.fallback.replicas", json!(2));
    with_scene(manifest, async |scene| {
        for tier in Tier::ALL {
            control(scene, tier, &json!({"dies": true})).await?;
        }
        let gateway = scene.gateway().await?;
        let url = gateway.url("/v1/images/generations");
        let poison = json!({"prompt": "what kills", "size": "64x64"});
        let answer = reqwest::Client::new().post(url).json(&poison).send();
        let status = answer.await?.status();
        assert!(status.is_server_error(), "{status}");
        // The kubelet tells of a restart a moment later.
        sleep(Duration::from_secs(5)).await;
        let cost = restarts(scene).await?;
        assert!((1..=MOST).contains(&cost), "it cost {cost} pods");

        for tier in Tier::ALL {
            control(scene, tier, &json!({"dies": false})).await?;
        }
        let answers = send(&gateway, 20, 2).await?;
        let served: usize = Tier::ALL
            .into_iter()
            .map(|tier| answered_by(tier, &answers))
            .sum();
        assert_eq!(served, 20);
        Ok(())
    })
    .await
}
