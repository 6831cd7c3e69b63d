//! A pod's scratch space is full.

use crate::load::{answered_by, during};
use crate::scene::{Scene, tiers, with_scene};
use anyhow::{Context, Result};
use serde_json::json;
use std::time::Duration;
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::node::fill_volume;
use zimage_tests::wait;

const CLIENTS: usize = 4;
/// More than the volume may hold.
const FILLED: u32 = 1100;
/// The kubelet looks at its pods' disks now and then.
const EVICTED: Duration = Duration::from_secs(120);

async fn primary_names(scene: &Scene) -> Result<Vec<String>> {
    let pods = scene.server_pods(Tier::Primary).await?;
    let running = pods.into_iter().filter(|pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Running")
    });
    Ok(running.filter_map(|pod| pod.metadata.name).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_scratch_space_is_full_is_replaced_and_loses_no_request() -> Result<()> {
    with_scene(
        tiers().with("spec.primary.replicas", json!(2)),
        async |scene| {
            let gateway = scene.gateway().await?;
            let pods = scene.server_pods(Tier::Primary).await?;
            let pod = pods.first().context("there is a primary pod")?;
            let name = pod.metadata.name.clone().unwrap_or_default();
            let scenario = async {
                fill_volume(pod, "tmp", FILLED).await?;
                wait::until("another pod in its place", EVICTED, async || {
                    let running = primary_names(scene).await?;
                    Ok((running.len() == 2 && !running.contains(&name)).then_some(()))
                })
                .await?;
                scene.ready().await?;
                Ok(())
            };
            let ((), answers) = during(&gateway, CLIENTS, scenario).await?;
            assert!(answered_by(Tier::Primary, &answers) > 0);
            // The evicted pod stays as a record; it is none of the tier's.
            let object = scene.ready().await?;
            let shown = serde_json::to_value(&object.status)?;
            assert_eq!(shown["replicas"], 2, "{shown}");
            Ok(())
        },
    )
    .await
}
