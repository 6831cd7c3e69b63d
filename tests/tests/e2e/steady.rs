//! Where nothing changes, nothing is written.

use crate::lifecycle::children;
use crate::scene::{NAME, PATIENCE, Scene, tiers, with_scene_on};
use crate::system::alone;
use crate::testserver::{RELIEVED, report};
use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;
use zimage_crds::Tier;
use zimage_tests::commands::kubectl;
use zimage_tests::documents::identity;
use zimage_tests::manifest::Change;
use zimage_tests::namespace::PREFIX;
use zimage_tests::wait;

/// Kinds that the operator or the garbage collector could write. Leases are renewed and the kubelet writes a pod's status
/// when it likes: they are left out.
const OURS: &[&str] = &[
    "deployments",
    "poddisruptionbudgets",
    "replicasets",
    "rolebindings",
    "roles",
    "serviceaccounts",
    "services",
    "zimagedeployments",
];
// Not DELETECOLLECTION: that is how the controller of namespaces clears those of other tests.
const WRITES: &[&str] = &["APPLY", "DELETE", "PATCH", "POST", "PUT"];

/// Writes of those kinds that the API server has counted, refused ones and those without an effect too.
async fn writes() -> Result<BTreeMap<String, u64>> {
    let figures = kubectl(&["get", "--raw", "/metrics"], "").await?;
    let mut counted = BTreeMap::new();
    for line in figures.lines() {
        let Some((labels, count)) = line
            .strip_prefix("apiserver_request_total{")
            .and_then(|line| line.split_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let value = labels.split(&format!("{name}=\"")).nth(1)?;
            value.split('"').next()
        };
        let (resource, verb) = (label("resource"), label("verb"));
        let written = resource.is_some_and(|resource| OURS.contains(&resource))
            && verb.is_some_and(|verb| WRITES.contains(&verb));
        // The kubelet asks for tokens of the pods' service accounts.
        if written && label("subresource") != Some("token") {
            counted.insert(labels.to_owned(), count.parse()?);
        }
    }
    Ok(counted)
}

/// The versions of the object, its children and its events.
async fn versions(scene: &Scene) -> Result<BTreeMap<String, String>> {
    let object = serde_json::to_value(scene.objects().get(NAME).await?)?;
    let all = children(scene).await?.into_iter().chain([object]);
    let all = all.filter(|object| object["kind"] != "Pod");
    let mut versions: BTreeMap<_, _> = all
        .map(|object| {
            (
                identity(&object),
                object["metadata"]["resourceVersion"].to_string(),
            )
        })
        .collect();
    for event in scene.raw_events().await? {
        versions.insert(
            format!("Event/{}", event.name_any()),
            event.resource_version().unwrap_or_default(),
        );
    }
    Ok(versions)
}

/// Waits until the pods of other tests are gone: whoever ends them writes too. Their namespaces may stay for minutes.
async fn alone_in_the_cluster(scene: &Scene) -> Result<()> {
    let pods: Api<Pod> = Api::all(scene.client.clone());
    let of_servers = ListParams::default().labels("app.kubernetes.io/name=zimage");
    wait::until("the pods of other tests to be gone", PATIENCE, async || {
        let found = pods.list(&of_servers).await?;
        let elsewhere = |pod: &Pod| {
            let namespace = pod.namespace().unwrap_or_default();
            namespace != scene.namespace && namespace.starts_with(PREFIX)
        };
        Ok((!found.items.iter().any(elsewhere)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_state_makes_no_writes() -> anyhow::Result<()> {
    let (client, _operator) = alone().await?;
    let manifest = tiers()
        .with("spec.primary.gpu", json!({}))
        .with("spec.primary.replicas", json!(2));
    with_scene_on(client, manifest, async |scene| {
        report(scene, Tier::Primary, RELIEVED).await?;
        alone_in_the_cluster(scene).await?;
        sleep(Duration::from_secs(5)).await;
        let before = (writes().await?, versions(scene).await?);
        assert!(
            before
                .0
                .keys()
                .any(|labels| labels.contains("zimagedeployments")),
            "the API server counts writes: {:?}",
            before.0
        );
        sleep(Duration::from_secs(20)).await;
        assert_eq!((writes().await?, versions(scene).await?), before);
        Ok(())
    })
    .await
}
