//! A model that cannot be loaded is told by name, and the other tier serves.

use crate::images::by_content;
use crate::load::{answered_by, send};
use crate::scene::{NAME, PATIENCE, Scene, condition, tiers};
use crate::system;
use serde_json::json;
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::namespace::with_namespace;
use zimage_tests::wait;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_model_is_named_in_condition_and_event_and_the_other_tier_serves()
-> anyhow::Result<()> {
    let (client, _operator) = system::shared().await?;
    with_namespace(client, async |client, namespace| {
        let scene = Scene { client, namespace };
        scene.make_claim("models").await?;
        scene
            .apply(&tiers().with("spec.primary.image", json!(by_content("server")?)))
            .await?;
        let told =
            |object: &_| condition(object, "PrimaryReady") == Some(("False", "ModelInvalid"));
        let object = scene
            .until("PrimaryReady=False, ModelInvalid", told)
            .await?;
        assert!(condition(&object, "Ready").is_some_and(|(status, _)| status == "False"));
        let conditions = object.status.iter().flat_map(|status| &status.conditions);
        let message = conditions
            .filter(|found| found.type_ == "PrimaryReady")
            .map(|found| found.message.as_str());
        let message = message.collect::<String>();
        assert!(message.contains("model_index.json"), "{message}");
        wait::until("an event that names the file", PATIENCE, async || {
            let events = scene.events().await?;
            Ok(events.into_iter().find(|(reason, note)| {
                reason == "ModelInvalid" && note.contains("model_index.json")
            }))
        })
        .await?;

        scene
            .until_traffic("0/100", PATIENCE, |split| split.split == "0/100")
            .await?;
        let answers = send(&scene.gateway().await?, 20, 2).await?;
        assert_eq!(answered_by(Tier::Fallback, &answers), 20, "of {NAME}");
        Ok(())
    })
    .await
}
