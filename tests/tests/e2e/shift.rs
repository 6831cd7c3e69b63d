//! Traffic leaves a saturated primary tier, and comes back.

use crate::scene::{PATIENCE, Scene, condition, tiers, with_scene};
use crate::testserver::{BUSY_WITHOUT_QUEUE, RELIEVED, SATURATED, report};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use zimage_crds::{Tier, TrafficState};
use zimage_tests::manifest::Change;
use zimage_tests::wait;

/// Two primary pods with a GPU each; the shift policy as given, with short ways back.
fn on_gpus(shift: Value) -> Value {
    let mut policy =
        json!({"returnAfterSeconds": 5, "minimumHoldSeconds": 5, "coolDownSeconds": 0});
    if let (Some(policy), Value::Object(shift)) = (policy.as_object_mut(), shift) {
        policy.extend(shift);
    }
    tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.primary.gpu", json!({"product": "NVIDIA-H800"}))
        .with("spec.traffic.shift", policy)
}

/// Waits until the operator reads the figures of all primary pods.
async fn metrics_are_read(scene: &Scene) -> Result<()> {
    report(scene, Tier::Primary, RELIEVED).await?;
    let fresh = |object: &_| {
        condition(object, "MetricsAvailable").is_some_and(|(status, _)| status == "True")
    };
    scene.until("MetricsAvailable", fresh).await?;
    Ok(())
}

async fn stays_at_90_to_10(scene: &Scene, time: Duration) {
    let moved = timeout(
        time,
        scene.until_traffic("a shift", PATIENCE, |split| split.split != "90/10"),
    )
    .await;
    assert!(moved.is_err(), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturation_for_thirty_seconds_shifts_the_weights_and_relief_brings_them_back()
-> anyhow::Result<()> {
    with_scene(on_gpus(json!({})), async |scene| {
        metrics_are_read(scene).await?;
        let shifted = scene.until_traffic("the shift", PATIENCE, |split| split.split == "0/100");
        let saturated = async {
            let begun = Instant::now();
            report(scene, Tier::Primary, SATURATED).await?;
            Ok((begun, Instant::now()))
        };
        let ((begun, reported), state, moved) = {
            let seen = async { shifted.await.map(|state| (state, Instant::now())) };
            let (times, (state, moved)) = tokio::try_join!(saturated, seen)?;
            (times, state, moved)
        };
        let (longest, shortest) = (moved - begun, moved - reported);
        assert!(
            longest >= Duration::from_secs(30),
            "shifted after {longest:?} at the most"
        );
        assert!(
            shortest <= Duration::from_secs(33),
            "shifted after {shortest:?} at the least"
        );
        assert_eq!(
            (state.state, state.reason.as_str()),
            (TrafficState::Shifted, "Saturated")
        );
        let shown = |object: &_| condition(object, "Shifted") == Some(("True", "Saturated"));
        scene.until("condition Shifted", shown).await?;
        event(scene, "Saturated").await?;

        report(scene, Tier::Primary, RELIEVED).await?;
        let state = scene
            .until_traffic("the way back", PATIENCE, |split| split.split == "90/10")
            .await?;
        assert_eq!(
            (state.state, state.reason.as_str()),
            (TrafficState::Normal, "WithinCapacity")
        );
        let shown =
            |object: &_| condition(object, "Shifted").is_some_and(|(status, _)| status == "False");
        scene.until("condition Shifted to be False", shown).await?;
        event(scene, "WithinCapacity").await?;
        Ok(())
    })
    .await
}

async fn event(scene: &Scene, reason: &str) -> Result<()> {
    wait::until(&format!("an event {reason}"), PATIENCE, async || {
        Ok(scene
            .events()
            .await?
            .into_iter()
            .find(|(found, _)| found == reason))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn utilization_without_a_queue_shifts_nothing() -> anyhow::Result<()> {
    with_scene(on_gpus(json!({"windowSeconds": 4})), async |scene| {
        metrics_are_read(scene).await?;
        report(scene, Tier::Primary, BUSY_WITHOUT_QUEUE).await?;
        stays_at_90_to_10(scene, Duration::from_secs(12)).await;
        report(scene, Tier::Primary, SATURATED).await?;
        scene
            .until_traffic("the shift once a queue is there", PATIENCE, |split| {
                split.split == "0/100"
            })
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn utilization_alone_shifts_when_the_trigger_says_so() -> anyhow::Result<()> {
    let weights = json!({"primary": 50, "fallback": 50});
    let policy = json!({"windowSeconds": 4, "trigger": "Utilization", "weights": weights});
    with_scene(on_gpus(policy), async |scene| {
        metrics_are_read(scene).await?;
        report(scene, Tier::Primary, BUSY_WITHOUT_QUEUE).await?;
        scene
            .until_traffic("the shift", PATIENCE, |split| split.split == "50/50")
            .await?;
        Ok(())
    })
    .await
}
