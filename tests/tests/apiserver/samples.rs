//! Sample manifests, as the API server takes them from `kubectl apply`.

use crate::with_api;
use anyhow::{Context, Result};
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;
use std::fs;
use zimage_crds::ZImageDeployment;
use zimage_tests::{documents, repository};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sample_is_accepted_and_has_no_field_that_there_is_not() -> Result<()> {
    with_api(async |client, namespace| {
        let api: Api<ZImageDeployment> = Api::namespaced(client, &namespace);
        let parameters = PatchParams::apply("test").dry_run().validation_strict();
        let mut applied = 0;
        for file in fs::read_dir(repository::path("manifests/samples"))? {
            let path = file?.path();
            let objects = documents::parse(&fs::read_to_string(&path)?)?;
            let deployments = objects.iter().filter(|it| it["kind"] == "ZImageDeployment");
            for sample in deployments {
                let name = sample["metadata"]["name"].as_str().context("a name")?;
                let patch = Patch::<&Value>::Apply(sample);
                let outcome = api.patch(name, &parameters, &patch).await;
                outcome.with_context(|| path.display().to_string())?;
                applied += 1;
            }
        }
        assert!(applied >= 3, "{applied} samples");
        Ok(())
    })
    .await
}
