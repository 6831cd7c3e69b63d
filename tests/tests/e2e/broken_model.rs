//! A model that cannot be loaded is told by file and reason, and the other tier serves.

use crate::images::by_content;
use crate::load::{answered_by, send};
use crate::scene::{PATIENCE, Scene, condition, tiers};
use crate::system;
use anyhow::{Context, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::namespace::with_namespace;
use zimage_tests::{documents, node, repository, wait};

pub(crate) const SHARD: &str = "transformer/diffusion_pytorch_model.safetensors";

/// The primary runs the real server, the fallback a test server.
pub(crate) fn real_primary() -> Result<Value> {
    Ok(tiers().with("spec.primary.image", json!(by_content("server")?)))
}

/// Waits until condition and event tell each of `words`, and the fallback serves everything.
pub(crate) async fn is_told_and_survived(
    scene: &Scene,
    expected: &str,
    words: &[&str],
) -> Result<()> {
    let told = |object: &_| condition(object, "PrimaryReady") == Some(("False", expected));
    let object = scene
        .until(&format!("PrimaryReady=False, {expected}"), told)
        .await?;
    assert!(condition(&object, "Ready").is_some_and(|(status, _)| status == "False"));
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let message = conditions
        .filter(|found| found.type_ == "PrimaryReady")
        .map(|found| found.message.as_str());
    let message = message.collect::<String>();
    let has_all = |text: &str| words.iter().all(|word| text.contains(word));
    assert!(has_all(&message), "{message}");
    wait::until("an event that says so", PATIENCE, async || {
        let mut events = scene.events().await?.into_iter();
        Ok(events.find(|(reason, note)| reason == expected && has_all(note)))
    })
    .await?;

    scene
        .until_traffic("0/100", PATIENCE, |split| split.split == "0/100")
        .await?;
    let answers = send(&scene.gateway().await?, 20, 2).await?;
    assert_eq!(answered_by(Tier::Fallback, &answers), 20);
    Ok(())
}

/// The quick start's claim and Job: a small model on a volume of the node, whose folder there is returned.
pub(crate) async fn make_model(scene: &Scene) -> Result<String> {
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(scene.client.clone(), &scene.namespace);
    let jobs: Api<Job> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let sample = repository::read("manifests/samples/quickstart.yaml");
    let sample = sample.replace("zimage-server:0.1.0", &by_content("server")?);
    for object in documents::parse(&sample)? {
        match object["kind"].as_str() {
            Some("PersistentVolumeClaim") => {
                let claim = serde_json::from_value(object)?;
                claims.create(&PostParams::default(), &claim).await?;
            }
            Some("Job") => {
                let job = serde_json::from_value(object)?;
                jobs.create(&PostParams::default(), &job).await?;
            }
            _ => {}
        }
    }
    wait::until("the Job to have made the model", PATIENCE, async || {
        let status = jobs.get("quickstart-model").await?.status;
        Ok(status
            .and_then(|status| status.succeeded)
            .filter(|&ended| ended == 1))
    })
    .await?;
    let claim = claims.get("quickstart-models").await?;
    let volume = claim.spec.and_then(|spec| spec.volume_name);
    let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
    let volume = volumes.get(&volume.context("the claim is bound")?).await?;
    let path = volume.spec.and_then(|spec| spec.host_path);
    Ok(path.context("volumes are folders of the node")?.path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_model_is_named_in_condition_and_event_and_the_other_tier_serves()
-> anyhow::Result<()> {
    let (client, _operator) = system::shared().await?;
    with_namespace(client, async |client, namespace| {
        let scene = Scene { client, namespace };
        scene.make_claim("models").await?;
        scene.apply(&real_primary()?).await?;
        is_told_and_survived(&scene, "ModelInvalid", &["model_index.json"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_weights_that_was_cut_short_is_named_with_the_reason_and_the_other_tier_serves()
-> anyhow::Result<()> {
    let (client, _operator) = system::shared().await?;
    with_namespace(client, async |client, namespace| {
        let scene = Scene { client, namespace };
        scene.make_claim("models").await?;
        let folder = make_model(&scene).await?;
        let file = format!("{folder}/tiny/{SHARD}");
        node::exec(&["truncate", "--size=-1000", &file]).await?;
        let source = json!({"claimName": "quickstart-models", "path": "tiny"});
        let manifest = real_primary()?;
        scene
            .apply(&manifest.with("spec.primary.model.source.persistentVolumeClaim", source))
            .await?;
        is_told_and_survived(&scene, "ModelInvalid", &[SHARD, "and the file has"]).await
    })
    .await
}
