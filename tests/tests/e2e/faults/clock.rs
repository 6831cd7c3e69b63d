//! The real clocks of the leader, the gateway and the servers move by an hour, together and each for itself.
//!
//! No namespace moves a real clock, and the machine's belongs to everybody. So images are made of those under test that
//! have one file more, a library with a clock of its own (`clock.c`), and the file that has every program load it.

use crate::images::{by_content, variant};
use crate::load::{answered_by, during};
use crate::scene::{Scene, condition, tiers, with_scene_on};
use crate::system::{Images, NAMESPACE, RELEASE, alone, chart, restored, upgrade};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::{Tier, TrafficState};
use zimage_tests::manifest::Change;
use zimage_tests::node::write_file;
use zimage_tests::wait;

const CLIENTS: usize = 4;
const HOUR: i32 = 3600;
/// How long each clock is watched: longer than a lease, a window of the traffic policy and a watch of the gateway.
const WATCHED: Duration = Duration::from_secs(45);
/// Seconds for which a lease holds: it was renewed within them.
const LEASE: i64 = 15;
/// The operator has acted on a change by then.
const CURRENT: Duration = Duration::from_secs(30);

async fn with_clock(image: &str) -> Result<String> {
    let change = r#"
        cc -shared -fPIC -O2 -o "$root/lib/clock.so" tests/tests/e2e/faults/clock.c
        echo /lib/clock.so > "$root/etc/ld.so.preload"
    "#;
    variant(image, "clock", change).await
}

/// Every pod with a clock: both operators, the gateway, the servers.
async fn pods(scene: &Scene) -> Result<Vec<Pod>> {
    let operators: Api<Pod> = Api::namespaced(scene.client.clone(), NAMESPACE);
    let mut pods = operators.list(&ListParams::default()).await?.items;
    pods.extend(scene.gateway_pods().await?);
    for tier in Tier::ALL {
        pods.extend(scene.server_pods(tier).await?);
    }
    Ok(pods)
}

/// Who leads, and how far the leader's clock is off, by the time that it writes into its lease.
async fn leader(scene: &Scene) -> Result<(String, SignedDuration)> {
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), NAMESPACE);
    let spec = leases.get(RELEASE).await?.spec.context("a lease")?;
    let renewed = spec.renew_time.context("somebody leads")?.0;
    let holder = spec.holder_identity.context("somebody leads")?;
    Ok((holder, renewed.duration_since(Timestamp::now())))
}

async fn is_unmoved(scene: &Scene) -> Result<bool> {
    let object = scene.objects().get(crate::scene::NAME).await?;
    let is_ready = condition(&object, "Ready").is_some_and(|(status, _)| status == "True");
    let traffic = object.status.and_then(|status| status.traffic);
    Ok(is_ready && traffic.is_some_and(|traffic| traffic.state == TrafficState::Normal))
}

/// With the clocks as they are now: no shift, no change of leader, and the operator acts on a change soon.
async fn nothing_happens(scene: &Scene, leads: &str, manifest: &Value) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        ensure!(
            is_unmoved(scene).await?,
            "traffic moved, or it is not Ready"
        );
        ensure!(leader(scene).await?.0 == leads, "the leader changed");
        sleep(Duration::from_secs(1)).await;
    }
    scene.apply(manifest).await?;
    let objects = scene.objects();
    wait::until("the operator to be current", CURRENT, async || {
        let object = objects.get(crate::scene::NAME).await?;
        let observed = object.status.and_then(|status| status.observed_generation);
        Ok((observed == object.metadata.generation).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_clocks_that_move_by_an_hour_lose_no_request_shift_nothing_and_leave_the_leader()
-> Result<()> {
    let (client, _operator) = alone().await?;
    let images = Images {
        operator: with_clock("operator").await?,
        gateway: with_clock("gateway").await?,
        server: by_content("testserver")?,
    };
    let server = json!(with_clock("testserver").await?);
    let manifest = tiers()
        .with("spec.primary.image", server.clone())
        .with("spec.fallback.image", server);
    restored(async {
        upgrade(&chart(), &images, &[]).await?;
        with_scene_on(client, manifest.clone(), async |scene| {
            let way = scene.gateway().await?;
            let scenario = async {
                let (leads, _) = leader(scene).await?;
                let mut seconds = 30;
                for offset in [HOUR, 0, -HOUR, 0] {
                    for pod in pods(scene).await? {
                        write_file(&pod, "/etc/clock-offset", &offset.to_string()).await?;
                    }
                    seconds += 1;
                    let window = json!(seconds);
                    let changed = manifest
                        .clone()
                        .with("spec.traffic.shift.windowSeconds", window);
                    nothing_happens(scene, &leads, &changed)
                        .await
                        .with_context(|| format!("with clocks that are off by {offset} s"))?;
                    let (_, off) = leader(scene).await?;
                    let off = off.as_secs() - i64::from(offset);
                    ensure!(
                        (-LEASE..=0).contains(&off),
                        "the clock is {off} s off {offset}"
                    );
                }
                Ok(())
            };
            let ((), answers) = Box::pin(during(&way, CLIENTS, scenario)).await?;
            assert!(answered_by(Tier::Primary, &answers) > 0);
            Ok(())
        })
        .await
    })
    .await
}
