//! A short manifest is a good one: the API server fills in the rest.

use crate::{create, with_api};
use kube::Api;
use serde_json::{Value, json};
use zimage_crds::ZImageDeployment;
use zimage_tests::documents::parse;
use zimage_tests::manifest::{Change, valid};
use zimage_tests::repository;

#[tokio::test]
async fn a_short_manifest_gets_the_documented_defaults() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        let created = create(&client, &namespace, &valid().with("spec.primary.gpu", json!({}))).await?;
        let spec = &created.data["spec"];
        assert_eq!(spec["primary"]["replicas"], 1);
        assert_eq!(spec["primary"]["device"], "Auto");
        assert_eq!(spec["primary"]["gpu"], json!({"count": 1, "resourceName": "nvidia.com/gpu"}));
        assert_eq!(
            spec["primary"]["engine"],
            json!({"precision": "Auto", "maxBatchSize": 1, "maxQueueLength": 16, "maxQueueSeconds": 300, "drainTimeoutSeconds": 120})
        );
        assert_eq!(spec["gateway"]["replicas"], 2);
        assert_eq!(spec["gateway"]["requestTimeoutSeconds"], 900);
        assert_eq!(spec["paused"], false);
        assert_eq!(spec["traffic"]["mode"], "Proxy");
        assert_eq!(spec["traffic"]["weights"], json!({"primary": 90, "fallback": 10}));
        assert_eq!(
            spec["traffic"]["shift"],
            json!({
                "trigger": "UtilizationAndQueue",
                "utilizationPercent": 98,
                "windowSeconds": 30,
                "weights": {"primary": 0, "fallback": 100},
                "returnBelowPercent": 80,
                "returnAfterSeconds": 60,
                "minimumHoldSeconds": 60,
                "coolDownSeconds": 60,
            })
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_operators_types_read_what_the_api_server_stores() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid()).await?;
        let stored = Api::<ZImageDeployment>::namespaced(client, &namespace)
            .get("fox")
            .await?;
        let written: ZImageDeployment = serde_json::from_value(valid())?;
        assert_eq!(stored.spec, written.spec);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_fallback_is_optional() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid().without("spec.fallback")).await?;
        Ok(())
    })
    .await
}

/// Templates leave them where there is nothing to fill in.
#[tokio::test]
async fn explicit_nulls_are_accepted() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        let selected = json!({"nvidia.com/gpu.product": "NVIDIA-A10G"});
        let manifest = valid()
            .with("spec.fallback", Value::Null)
            .with("spec.primary.image", Value::Null)
            .with("spec.primary.resources", Value::Null)
            .with("spec.primary.gpu.product", Value::Null)
            .with("spec.primary.scheduling.nodeSelector", selected);
        create(&client, &namespace, &manifest).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_sample_is_accepted() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        let mut accepted = 0;
        for entry in std::fs::read_dir(repository::path("manifests/samples"))? {
            for object in parse(&std::fs::read_to_string(entry?.path())?)? {
                if object["kind"] == "ZImageDeployment" {
                    create(&client, &namespace, &object).await?;
                    accepted += 1;
                }
            }
        }
        assert!(accepted >= 3, "{accepted} samples");
        Ok(())
    })
    .await
}
