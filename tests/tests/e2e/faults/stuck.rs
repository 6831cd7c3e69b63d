//! A pod that is alive and computes nothing.

use crate::faults::{is_ready, restarts};
use crate::load::{answered_by, during};
use crate::scene::{tiers, with_scene};
use crate::testserver::{CONTROL_PORT, put};
use anyhow::{Context, Result};
use kube::ResourceExt;
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;
use zimage_crds::Tier;
use zimage_tests::forward::Forward;
use zimage_tests::manifest::Change;
use zimage_tests::wait;

const CLIENTS: usize = 4;
const UNREADY: Duration = Duration::from_secs(120);
const RESTARTED: Duration = Duration::from_secs(360);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_device_stands_still_leaves_the_rotation_and_starts_again() -> Result<()> {
    with_scene(
        tiers().with("spec.primary.replicas", json!(2)),
        async |scene| {
            let gateway = scene.gateway().await?;
            let pods = scene.server_pods(Tier::Primary).await?;
            let pod = pods.first().context("there is a primary pod")?;
            let name = pod.name_any();
            let scenario = async {
                sleep(Duration::from_secs(2)).await;
                let way = Forward::start(scene.pods(), &name, CONTROL_PORT).await?;
                put(&way, &json!({"hang": true})).await?;
                wait::until("the pod not to be ready", UNREADY, async || {
                    Ok((!is_ready(scene, &name).await?).then_some(()))
                })
                .await?;
                wait::until("the pod to start again", RESTARTED, async || {
                    Ok(
                        (restarts(scene, &name).await? > 0 && is_ready(scene, &name).await?)
                            .then_some(()),
                    )
                })
                .await?;
                Ok(())
            };
            let ((), answers) = during(&gateway, CLIENTS, scenario).await?;
            assert!(answered_by(Tier::Primary, &answers) > 0);
            Ok(())
        },
    )
    .await
}
