//! README's quick start, as it stands in the samples.

use crate::figures;
use crate::images::by_content;
use crate::scene::Scene;
use crate::system;
use anyhow::{Context, Result};
use base64_simd::STANDARD;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::time::Duration;
use zimage_crds::ZImageDeployment;
use zimage_tests::commands::kubectl;
use zimage_tests::forward::Forward;
use zimage_tests::namespace::with_namespace;
use zimage_tests::{repository, wait};

const NAME: &str = "quickstart";
const READY_LIMIT: Duration = Duration::from_secs(240);
const IMAGE_LIMIT: Duration = Duration::from_secs(180);

/// The sample's Service, once the sample is Ready.
async fn start(scene: &Scene) -> Result<Forward> {
    let sample = repository::read("manifests/samples/quickstart.yaml");
    let sample = sample.replace(
        "image: zimage-server:0.1.0",
        &format!("image: {}", by_content("server")?),
    );
    kubectl(
        &["apply", "--namespace", &scene.namespace, "--filename=-"],
        &sample,
    )
    .await?;
    let objects: Api<ZImageDeployment> = Api::namespaced(scene.client.clone(), &scene.namespace);
    wait::until("the quick start to be Ready", READY_LIMIT, async || {
        let object = objects.get(NAME).await?;
        Ok(crate::scene::condition(&object, "Ready")
            .filter(|(status, _)| *status == "True")
            .map(drop))
    })
    .await?;
    Forward::to_service(&format!("{NAME}.{}", scene.namespace), 80).await
}

/// The figures of one of the sample's server pods.
async fn figures_of_a_server(scene: &Scene) -> Result<String> {
    let servers = ListParams::default()
        .labels("app.kubernetes.io/instance=quickstart,zimage.dev/tier=primary");
    let pods = scene.pods().list(&servers).await?;
    let pod = pods.items.first().context("there is a server pod")?;
    figures::scrape(scene.pods(), pod).await
}

/// Width and height that the header of a PNG states.
fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    Some((number(8)?, number(12)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_becomes_ready_and_makes_an_image_of_the_size_asked_for() -> anyhow::Result<()> {
    let (client, _operator) = system::shared().await?;
    with_namespace(client, async |client, namespace| {
        let scene = Scene { client, namespace };
        let service = start(&scene).await?;
        let http = reqwest::Client::builder().timeout(IMAGE_LIMIT).build()?;

        let models: Value = http.get(service.url("/v1/models")).send().await?.error_for_status()?.json().await?;
        let names: Vec<_> = models["data"].as_array().into_iter().flatten().map(|model| model["id"].clone()).collect();
        assert!(names.contains(&json!(NAME)), "{models}");

        for (model, tier) in [("z-image-turbo", "primary"), ("z-image", "fallback")] {
            let body = json!({"model": model, "prompt": "一只戴围巾的橘猫坐在雪地里", "size": "128x64", "seed": 7});
            let response = http.post(service.url("/v1/images/generations")).json(&body).send().await?;
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            assert_eq!(header("x-zimage-tier").as_deref(), Some(tier));
            assert_eq!(header("x-zimage-model").as_deref(), Some(model));
            assert!(header("x-request-id").is_some());
            let answer: Value = response.error_for_status()?.json().await?;
            let png = STANDARD.decode_to_vec(answer.pointer("/data/0/b64_json").and_then(Value::as_str).context("an image")?)?;
            assert_eq!(png_size(&png), Some((128, 64)), "{model}");
        }

        let metrics = http.get(service.url("/metrics")).send().await?;
        assert_eq!(metrics.status(), 404, "metrics are never reachable through the gateway");
        let served = figures::names(&figures_of_a_server(&scene).await?);
        // No GPU is here.
        let documented = figures::documented("server").into_iter().filter(|name| !figures::needs_gpu(name)).collect();
        assert_eq!(served, documented);
        Ok(())
    })
    .await
}
