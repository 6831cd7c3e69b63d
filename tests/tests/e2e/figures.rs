//! The figures of each program are those that README tells of, no more and no less.

use crate::load::{answered_by, send};
use crate::scene::{PATIENCE, condition, tiers, with_scene};
use crate::system;
use crate::testserver::{RELIEVED, control, report};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::BTreeSet;
use zimage_crds::Tier;
use zimage_crds::contract::{METRICS_PATH, METRICS_PORT};
use zimage_tests::forward::Forward;
use zimage_tests::manifest::Change;
use zimage_tests::repository;

/// What a pod serves as `/metrics`.
pub(crate) async fn scrape(pods: Api<Pod>, pod: &Pod) -> Result<String> {
    let way = Forward::start(pods, &pod.name_any(), METRICS_PORT).await?;
    let response = reqwest::get(way.url(METRICS_PATH)).await?;
    Ok(response.error_for_status()?.text().await?)
}

/// The sum of a counter's samples whose labels contain `labels`.
pub(crate) fn total(figures: &str, name: &str, labels: &str) -> u64 {
    let samples = figures
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(labels));
    samples
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

/// Names of the figures, as a query has them.
pub(crate) fn names(figures: &str) -> BTreeSet<String> {
    let described = figures
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    described
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| {
            if kind == "counter" {
                format!("{name}_total")
            } else {
                name.to_owned()
            }
        })
        .collect()
}

/// Names in README's table of figures that a program has.
pub(crate) fn documented(program: &str) -> BTreeSet<String> {
    let readme = repository::read("README.md");
    let rows = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `zimage_"));
    rows.map(|row| format!("`zimage_{row}"))
        .filter(|row| row.split('|').nth(1).map(str::trim) == Some(program))
        .flat_map(|row| {
            let named = row.split('|').next().unwrap_or_default().split('`');
            named
                .filter(|name| name.starts_with("zimage_"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Whether only a server with a GPU has the figure.
pub(crate) fn needs_gpu(name: &str) -> bool {
    name.starts_with("zimage_gpu_") || name.starts_with("zimage_cuda_")
}

/// The figures of the operator's replica that acts.
async fn figures_of_the_leader(client: &Client) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), system::NAMESPACE);
    for pod in pods.list(&ListParams::default()).await? {
        let figures = scrape(pods.clone(), &pod).await?;
        if total(&figures, "zimage_operator_leader", "") == 1 {
            return Ok(figures);
        }
    }
    anyhow::bail!("no operator pod leads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_and_gateway_serve_every_figure_of_the_readme_and_no_other() -> anyhow::Result<()>
{
    let on_gpus = tiers().with("spec.primary.gpu", json!({}));
    with_scene(on_gpus, async |scene| {
        report(scene, Tier::Primary, RELIEVED).await?;
        let fresh = |object: &_| {
            condition(object, "MetricsAvailable").is_some_and(|(status, _)| status == "True")
        };
        scene.until("MetricsAvailable", fresh).await?;
        let mut of_operator = names(&figures_of_the_leader(&scene.client).await?);

        // A figure is served once there is something to count: a request that a pod does not take, and a shift.
        control(scene, Tier::Primary, &json!({"status": 503})).await?;
        let answers = send(&scene.gateway().await?, 2, 1).await?;
        assert_eq!(answered_by(Tier::Fallback, &answers), 2);
        let gateways = scene.gateway_pods().await?;
        let gateway = gateways.first().context("there is a gateway pod")?;
        let of_gateway = names(&scrape(scene.pods(), gateway).await?);
        assert_eq!(of_gateway, documented("gateway"));

        control(scene, Tier::Primary, &json!({"ready": false})).await?;
        scene
            .until_traffic("0/100", PATIENCE, |split| split.split == "0/100")
            .await?;
        of_operator.extend(names(&figures_of_the_leader(&scene.client).await?));
        assert_eq!(of_operator, documented("operator"));
        Ok(())
    })
    .await
}
