//! A gateway that the API server lets see nothing new: it serves on, and its deployment says so.

use crate::load::{answered_by, during};
use crate::scene::{Scene, condition, tiers, with_scene};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use zimage_crds::Tier;
use zimage_tests::manifest::Change;
use zimage_tests::wait;

const CLIENTS: usize = 2;
/// Two minutes after the end of a watch of half a minute it is told; the API server takes a moment to notice that an
/// account is gone.
const TOLD: Duration = Duration::from_secs(200);
const REPLACED: Duration = Duration::from_secs(90);

async fn account(scene: &Scene) -> Result<String> {
    let pods = scene.gateway_pods().await?;
    let pod = pods.into_iter().next().context("there is a gateway pod")?;
    let account = pod.spec.and_then(|spec| spec.service_account_name);
    account.context("the gateway has an account")
}

/// The ready gateway pods, when none of them has another name.
async fn gateways(scene: &Scene) -> Result<Vec<String>> {
    let pods = scene.gateway_pods().await?.into_iter();
    Ok(pods.map(|pod| pod.name_any()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_account_was_deleted_serves_on_is_told_and_is_replaced() -> Result<()> {
    let paused = || tiers().with("spec.paused", json!(true));
    with_scene(tiers(), async |scene| {
        scene.apply(&paused()).await?;
        scene
            .until("Paused", |object| {
                condition(object, "Accepted") == Some(("True", "Paused"))
            })
            .await?;
        let service = scene.service().await?;
        let before = gateways(scene).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(scene.client.clone(), &scene.namespace);
        let scenario = async {
            let account = account(scene).await?;
            accounts.delete(&account, &DeleteParams::default()).await?;
            let deleted = Instant::now();
            let objects = scene.objects();
            let message = wait::until("TrafficReady=False", TOLD, async || {
                let object = objects.get(crate::scene::NAME).await?;
                let conditions = object.status.unwrap_or_default().conditions;
                let told = conditions.into_iter().find(|it| it.type_ == "TrafficReady");
                Ok(told
                    .filter(|it| it.status == "False")
                    .map(|it| (it.reason, it.message)))
            })
            .await?;
            println!("told after {:?}", deleted.elapsed());
            assert_eq!(message.0, "GatewayOutdated", "{}", message.1);
            assert!(
                before.iter().all(|pod| message.1.contains(pod)),
                "{}",
                message.1
            );
            assert_eq!(gateways(scene).await?, before);

            scene
                .apply(&tiers().with("spec.paused", json!(false)))
                .await?;
            let resumed = Instant::now();
            wait::until("another gateway pod", REPLACED, async || {
                let now = gateways(scene).await?;
                Ok((now.len() == 1 && now != before).then_some(()))
            })
            .await?;
            scene.ready().await?;
            println!("replaced after {:?}", resumed.elapsed());
            Ok(())
        };
        let ((), answers) = during(&service, CLIENTS, scenario).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        Ok(())
    })
    .await
}
