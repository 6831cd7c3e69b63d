//! What the operator makes and removes.

use crate::scene::{NAME, PATIENCE, Scene, condition, tiers, with_scene};
use anyhow::Result;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;
use zimage_crds::{Tier, labels};
use zimage_tests::commands::kubectl;
use zimage_tests::manifest::Change;
use zimage_tests::wait;

/// Everything in the namespace that carries the object's instance label, whatever its kind.
pub(crate) async fn children(scene: &Scene) -> Result<Vec<Value>> {
    let kinds = kubectl(
        &[
            "api-resources",
            "--namespaced",
            "--verbs=list",
            "--output=name",
        ],
        "",
    )
    .await?;
    let kinds: Vec<_> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events"))
        .collect();
    let selector = format!("{}={NAME}", labels::INSTANCE);
    let arguments = [
        "get",
        &kinds.join(","),
        "--namespace",
        &scene.namespace,
        "--selector",
        &selector,
        "--output=json",
    ];
    let list: Value = serde_json::from_str(&kubectl(&arguments, "").await?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_the_object_leaves_nothing() -> anyhow::Result<()> {
    with_scene(
        tiers().with("spec.primary.replicas", json!(2)),
        async |scene| {
            let kinds: Vec<_> = children(scene)
                .await?
                .iter()
                .map(|child| child["kind"].to_string())
                .collect();
            for kind in [
                "Deployment",
                "Pod",
                "Service",
                "ServiceAccount",
                "PodDisruptionBudget",
                "NetworkPolicy",
                "RoleBinding",
            ] {
                assert!(
                    kinds.contains(&json!(kind).to_string()),
                    "no {kind} among {kinds:?}"
                );
            }
            scene
                .objects()
                .delete(NAME, &DeleteParams::default())
                .await?;
            wait::until("every child to be gone", PATIENCE, async || {
                Ok(children(scene).await?.is_empty().then_some(()))
            })
            .await
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_the_fallback_removes_its_objects_and_sends_everything_to_the_primary()
-> anyhow::Result<()> {
    with_scene(tiers(), async |scene| {
        scene.apply(&tiers().without("spec.fallback")).await?;
        scene
            .until_traffic("100/0", PATIENCE, |split| split.split == "100/0")
            .await?;
        let of_fallback = format!("{}-fallback", NAME);
        wait::until("the fallback's objects to be gone", PATIENCE, async || {
            let left = children(scene).await?;
            Ok((!left
                .iter()
                .any(|child| child["metadata"]["name"] == of_fallback))
            .then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_object_is_left_alone() -> anyhow::Result<()> {
    with_scene(tiers().with("spec.paused", json!(false)), async |scene| {
        let paused = tiers().with("spec.paused", json!(true));
        scene.apply(&paused).await?;
        scene
            .until("reason Paused", |object| {
                let conditions = object.status.iter().flat_map(|status| &status.conditions);
                conditions
                    .into_iter()
                    .any(|condition| condition.reason == "Paused")
            })
            .await?;
        scene
            .apply(&paused.with("spec.primary.replicas", json!(2)))
            .await?;
        scene
            .until("Ready False for a spec that is not what runs", |object| {
                condition(object, "Ready") == Some(("False", "Paused"))
            })
            .await?;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(scene.server_pods(Tier::Primary).await?.len(), 1);
        scene
            .apply(&tiers().with("spec.primary.replicas", json!(2)))
            .await?;
        scene.ready().await?;
        assert_eq!(scene.server_pods(Tier::Primary).await?.len(), 2);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_account_was_made_again_is_replaced() -> anyhow::Result<()> {
    with_scene(tiers(), async |scene| {
        let names = async || -> anyhow::Result<Vec<String>> {
            let pods = scene.gateway_pods().await?;
            Ok(pods.iter().map(|pod| pod.name_any()).collect())
        };
        let before = names().await?;
        let selector = format!("{}={NAME},{}=gateway", labels::INSTANCE, labels::COMPONENT);
        let delete = ["delete", "serviceaccounts", "--namespace", &scene.namespace];
        kubectl(&[&delete[..], &["--selector", &selector]].concat(), "").await?;
        wait::until("other gateway pods", PATIENCE, async || {
            let now = names().await?;
            let replaced = !now.is_empty() && now.iter().all(|name| !before.contains(name));
            Ok(replaced.then_some(()))
        })
        .await?;
        scene.ready().await?;
        Ok(())
    })
    .await
}
