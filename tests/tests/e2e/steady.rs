//! Where nothing changes, nothing is written.

use crate::lifecycle::children;
use crate::scene::{NAME, PATIENCE, Scene, tiers, with_scene_on};
use crate::system::alone;
use crate::testserver::{RELIEVED, report};
use anyhow::Result;
use kube::ResourceExt;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::sleep;
use zimage_crds::{Tier, labels};
use zimage_tests::commands::kubectl;
use zimage_tests::documents::identity;
use zimage_tests::manifest::Change;
use zimage_tests::namespace::PREFIX;
use zimage_tests::wait;

/// Kinds that the operator or the garbage collector could write. Leases are renewed and the kubelet writes a pod's status
/// when it likes: they are left out.
const OURS: &[&str] = &[
    "deployments",
    "networkpolicies",
    "poddisruptionbudgets",
    "replicasets",
    "rolebindings",
    "serviceaccounts",
    "services",
    "zimagedeployments",
];
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
        // Of one object. A whole collection is deleted, which counts as DELETE of a namespace, by the controller that
        // clears the namespaces of other tests.
        let one = label("scope") == Some("resource");
        // The kubelet asks for tokens of the pods' service accounts.
        if written && one && label("subresource") != Some("token") {
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

/// Ends what other tests left behind: whoever ends it later writes too. Their namespaces lose the pods first and the rest
/// at the controller's next look, up to a minute later.
async fn alone_in_the_cluster(scene: &Scene) -> Result<()> {
    let elsewhere =
        |namespace: &&str| *namespace != scene.namespace && namespace.starts_with(PREFIX);
    let kinds = [OURS, &["pods"]].concat().join(",");
    let selector = format!("--selector={}={}", labels::NAME, labels::NAME_VALUE);
    let namespaces = async |kinds: &str, selector: &str| {
        let output = "--output=jsonpath={.items[*].metadata.namespace}";
        kubectl(&["get", kinds, "--all-namespaces", selector, output], "").await
    };
    wait::until("what other tests made to be gone", PATIENCE, async || {
        let objects = namespaces("zimagedeployments", "--selector=").await?;
        for namespace in objects.split_whitespace().filter(elsewhere) {
            let all = [
                "delete",
                "zimagedeployments",
                "--all",
                "--namespace",
                namespace,
            ];
            kubectl(&all, "").await?;
        }
        let children = namespaces(&kinds, &selector).await?;
        let left = children
            .split_whitespace()
            .any(|namespace| elsewhere(&namespace));
        Ok((!left).then_some(()))
    })
    .await
}

/// What differs, as `name: before -> after`.
fn changes<V: Debug + PartialEq>(
    before: &BTreeMap<String, V>,
    after: &BTreeMap<String, V>,
) -> Vec<String> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|&name| before.get(name) != after.get(name))
        .map(|name| format!("{name}: {:?} -> {:?}", before.get(name), after.get(name)))
        .collect()
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
        let (counted, seen) = (writes().await?, versions(scene).await?);
        assert!(
            counted
                .keys()
                .any(|labels| labels.contains("zimagedeployments")),
            "the API server counts writes: {counted:?}"
        );
        sleep(Duration::from_secs(20)).await;
        let mut changed = changes(&counted, &writes().await?);
        changed.extend(changes(&seen, &versions(scene).await?));
        assert!(changed.is_empty(), "{changed:#?}");
        Ok(())
    })
    .await
}
