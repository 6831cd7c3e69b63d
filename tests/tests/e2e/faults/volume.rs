//! What a claim holds goes away, and the claim itself, while a model is served and while it is loaded.

use crate::broken_model::{SHARD, is_told_and_survived, make_model, real_primary};
use crate::load::{answered_by, during, send};
use crate::scene::{PATIENCE, Scene, condition, with_scene};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::node::{exec, kill_container};
use zimage_tests::wait;

const CLIENTS: usize = 2;
const CLAIM: &str = "quickstart-models";

/// A real primary with a tiny model.
fn with_model() -> Result<Value> {
    let source = json!({"claimName": CLAIM, "path": "tiny"});
    Ok(real_primary()?.with("spec.primary.model.source.persistentVolumeClaim", source))
}

/// Processors for a server that shall take its time: a hundredth of one, or two.
fn slow(processors: &str) -> Result<Value> {
    let resources = json!({"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": processors, "memory": "1Gi"}});
    Ok(with_model()?.with("spec.primary.resources", resources))
}

/// Runs `test` with a model made, its folder on the node known, and what needs none Ready.
async fn with_claim(test: impl AsyncFnOnce(&Scene, String) -> Result<()>) -> Result<()> {
    // The fallback and the gateway come first: the Job makes the model meanwhile.
    let without_primary = real_primary()?
        .with("spec.primary.replicas", json!(0))
        .with(
            "spec.traffic.weights",
            json!({"primary": 0, "fallback": 100}),
        );
    with_scene(without_primary, async |scene| {
        let folder = make_model(scene).await?;
        test(scene, folder).await
    })
    .await
}

async fn primary(scene: &Scene) -> Result<Pod> {
    let pods = scene.server_pods(Tier::Primary).await?;
    pods.into_iter().next().context("there is a primary pod")
}

async fn running(scene: &Scene) -> Result<()> {
    wait::until("the server to run", PATIENCE, async || {
        let status = primary(scene).await?.status.unwrap_or_default();
        let mut containers = status.container_statuses.unwrap_or_default().into_iter();
        Ok(containers.find_map(|it| it.state?.running).map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_whose_files_vanish_is_served_on_and_named_when_a_server_starts_again() -> Result<()>
{
    with_claim(async |scene, folder| {
        scene.apply(&with_model()?).await?;
        scene.ready().await?;
        let gateway = scene.gateway().await?;
        let gone = format!("{folder}-gone");
        let scenario = async {
            sleep(Duration::from_secs(2)).await;
            exec(&["mv", &format!("{folder}/tiny"), &gone]).await?;
            sleep(Duration::from_secs(10)).await;
            scene.ready().await?;
            Ok(())
        };
        let ((), answers) = during(&gateway, CLIENTS, scenario).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);

        kill_container(&primary(scene).await?).await?;
        is_told_and_survived(scene, "ModelInvalid", &["tiny"]).await?;
        exec(&["mv", &gone, &format!("{folder}/tiny")]).await?;
        scene.ready().await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_deleted_is_served_on_and_told_when_a_pod_is_replaced() -> Result<()> {
    with_claim(async |scene, _folder| {
        scene.apply(&with_model()?).await?;
        scene.ready().await?;
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(scene.client.clone(), &scene.namespace);
        let gateway = scene.gateway().await?;
        let scenario = async {
            claims.delete(CLAIM, &DeleteParams::default()).await?;
            sleep(Duration::from_secs(5)).await;
            scene.ready().await?;
            Ok(())
        };
        let ((), answers) = during(&gateway, CLIENTS, scenario).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);

        let pod = primary(scene).await?.name_any();
        scene.pods().delete(&pod, &DeleteParams::default()).await?;
        is_told_and_survived(scene, "VolumeUnavailable", &[CLAIM]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_shrinks_while_it_is_loaded_is_named_and_the_other_tier_serves() -> Result<()> {
    with_claim(async |scene, folder| {
        scene.apply(&slow("20m")?).await?;
        running(scene).await?;
        let object = scene.objects().get(crate::scene::NAME).await?;
        let loads = condition(&object, "PrimaryReady").is_some_and(|(status, _)| status == "False");
        assert!(loads, "the model was loaded at once");
        exec(&[
            "truncate",
            "--size=-1000",
            &format!("{folder}/tiny/{SHARD}"),
        ])
        .await?;
        is_told_and_survived(scene, "ModelInvalid", &[SHARD]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_loads_for_too_long_ends_the_server_with_the_reason() -> Result<()> {
    with_claim(async |scene, folder| {
        // Nothing but spaces, which take a hundredth of a processor ten seconds.
        let longer = "head -c 60000000 /dev/zero | tr '\\0' ' ' >> \"$0\"";
        let tokenizer = format!("{folder}/tiny/tokenizer/tokenizer.json");
        exec(&["sh", "-c", longer, &tokenizer]).await?;
        let limit = json!([{"name": "ZIMAGE_LOAD_TIMEOUT_SECONDS", "value": "1"}]);
        scene
            .apply(&slow("10m")?.with("spec.primary.env", limit))
            .await?;
        wait::until("the server to end", PATIENCE, async || {
            let status = primary(scene).await?.status.unwrap_or_default();
            let containers = status.container_statuses.unwrap_or_default().into_iter();
            let states = containers
                .flat_map(|it| [it.state, it.last_state])
                .flatten();
            let mut ends = states.filter_map(|state| state.terminated?.message);
            Ok(ends.find(|message| message.contains("was not loaded in time")))
        })
        .await?;
        let answers = send(&scene.gateway().await?, 20, 2).await?;
        assert!(answered_by(Tier::Fallback, &answers) > 0);
        Ok(())
    })
    .await
}
