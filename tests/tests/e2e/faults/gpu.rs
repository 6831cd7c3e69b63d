//! Faults that a GPU reports, played by a management library in the test server's image.

use crate::faults::{is_ready, restarts};
use crate::images::variant;
use crate::load::{answered_by, during};
use crate::scene::{PATIENCE, Scene, tiers, with_scene};
use anyhow::{Context, Result};
use kube::ResourceExt;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::{Tier, ZImageDeployment};
use zimage_tests::manifest::Change;
use zimage_tests::node::write_file;
use zimage_tests::wait;

const CLIENTS: usize = 2;
/// A pod whose GPU has failed is not ready by then.
const UNREADY: Duration = Duration::from_secs(5);
/// What the library plays, and how the server says it. Less than 0 is an error of the library.
const FAULTS: [(&str, &str); 4] = [
    ("79", "the GPU reports XID 79"),
    ("48", "the GPU reports XID 48"),
    ("109", "the GPU reports XID 109"),
    ("-15", "the GPU has left its bus"),
];

async fn with_played_gpu() -> Result<String> {
    let change = r#"
        cc -shared -fPIC -DPLAY='"/etc/play"' -o "$root/lib/libnvidia-ml.so.1" server/nvml/src/nvml.c
    "#;
    variant("testserver", "gpu", change).await
}

/// The GPU of the only primary pod fails: the pod is not ready soon, its deployment says why, and it starts again.
async fn fails(scene: &Scene, number: &str, said: &str) -> Result<Duration> {
    let pods = scene.server_pods(Tier::Primary).await?;
    let pod = pods.first().context("there is a primary pod")?;
    let name = pod.name_any();
    let before = restarts(scene, &name).await?;
    write_file(pod, "/etc/play", number).await?;
    let failed = Instant::now();
    wait::until("the pod not to be ready", PATIENCE, async || {
        Ok((!is_ready(scene, &name).await?).then_some(()))
    })
    .await?;
    let took = failed.elapsed();
    let told = |object: &ZImageDeployment| {
        let conditions = object.status.iter().flat_map(|status| &status.conditions);
        let mut primary = conditions.filter(|it| it.type_ == "PrimaryReady");
        primary.any(|it| it.reason == "DeviceFailed" && it.message.contains(said))
    };
    scene.until(said, told).await?;
    wait::until("the pod to start again", PATIENCE, async || {
        let again = restarts(scene, &name).await? > before && is_ready(scene, &name).await?;
        Ok(again.then_some(()))
    })
    .await?;
    scene.ready().await?;
    Ok(took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_gpu_fails_is_not_ready_in_five_seconds_and_its_deployment_says_why()
-> Result<()> {
    let manifest = tiers()
        .with("spec.primary.image", json!(with_played_gpu().await?))
        .with("spec.primary.gpu", json!({}));
    with_scene(manifest, async |scene| {
        let gateway = scene.gateway().await?;
        let scenario = async {
            sleep(Duration::from_secs(2)).await;
            for (number, said) in FAULTS {
                let took = fails(scene, number, said).await?;
                println!("{said}: not ready after {took:?}");
                assert!(took <= UNREADY, "{said}: not ready after {took:?}");
            }
            Ok(())
        };
        let ((), answers) = Box::pin(during(&gateway, CLIENTS, scenario)).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        Ok(())
    })
    .await
}
