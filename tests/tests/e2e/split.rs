//! The split of requests between the tiers.

use crate::load::{answered_by, send};
use crate::scene::{tiers, with_scene};
use serde_json::json;
use zimage_crds::Tier;
use zimage_tests::manifest::Change;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_through_one_gateway_pod_split_90_to_10() -> anyhow::Result<()> {
    let manifest = tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.fallback.replicas", json!(2));
    with_scene(manifest, async |scene| {
        let answers = send(&scene.gateway().await?, 1000, 4).await?;
        assert_eq!(answers.len(), 1000);
        let primary = answered_by(Tier::Primary, &answers);
        assert!((899..=901).contains(&primary), "{primary} of 1000");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_weight_takes_effect_without_a_restart() -> anyhow::Result<()> {
    with_scene(tiers(), async |scene| {
        let gateway = scene.gateway().await?;
        scene
            .apply(&tiers().with(
                "spec.traffic.weights",
                json!({"primary": 25, "fallback": 75}),
            ))
            .await?;
        scene
            .until("the new weights", |object| split(object) == Some("25/75"))
            .await?;
        // The gateway learns of the status by its own watch.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let answers = send(&gateway, 100, 4).await?;
        let primary = answered_by(Tier::Primary, &answers);
        assert!((24..=26).contains(&primary), "{primary} of 100");
        Ok(())
    })
    .await
}

fn split(object: &zimage_crds::ZImageDeployment) -> Option<&str> {
    Some(object.status.as_ref()?.traffic.as_ref()?.split.as_str())
}
