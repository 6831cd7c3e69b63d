//! A `ZImageDeployment` of test servers in a namespace, and what a test looks at.

use crate::images::by_content;
use crate::system;
use anyhow::{Context, Result};
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::pin::pin;
use std::time::Duration;
use zimage_crds::contract::GATEWAY_PORT;
use zimage_crds::{Tier, TrafficStatus, ZImageDeployment, labels};
use zimage_tests::forward::Forward;
use zimage_tests::manifest::{Change, valid};
use zimage_tests::namespace::with_namespace;
use zimage_tests::wait;

pub(crate) const NAME: &str = "fox";
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Scene {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// Two tiers of one test server each and one gateway pod.
pub(crate) fn tiers() -> Value {
    let image = json!(by_content("testserver").expect("`make test` assembles the images"));
    let small = json!({"requests": {"cpu": "10m", "memory": "16Mi"}});
    valid()
        .with("spec.primary.image", image.clone())
        .with("spec.primary.resources", small.clone())
        .with("spec.fallback.image", image)
        .with("spec.fallback.resources", small.clone())
        .with("spec.gateway.replicas", json!(1))
        .with("spec.gateway.resources", small)
}

/// Runs `test` with `manifest` applied and Ready, in a namespace of its own, while the operator stays as it is.
pub(crate) async fn with_scene(
    manifest: Value,
    test: impl AsyncFnOnce(&Scene) -> Result<()>,
) -> Result<()> {
    let (client, _operator) = system::shared().await?;
    with_scene_on(client, manifest, test).await
}

/// [`with_scene`] for a test that has the operator to itself.
pub(crate) async fn with_scene_on(
    client: Client,
    manifest: Value,
    test: impl AsyncFnOnce(&Scene) -> Result<()>,
) -> Result<()> {
    with_namespace(client, async |client, namespace| {
        let scene = Scene { client, namespace };
        scene.make_claim("models").await?;
        scene.apply(&manifest).await?;
        scene.ready().await?;
        test(&scene).await
    })
    .await
}

/// How often a pod's containers were started again.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses);
    statuses.flatten().map(|status| status.restart_count).sum()
}

impl Scene {
    pub(crate) fn objects(&self) -> Api<ZImageDeployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// An empty volume on the node and a claim bound to it.
    pub(crate) async fn make_claim(&self, name: &str) -> Result<()> {
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": format!("{}-{name}", self.namespace)},
            "spec": {
                "capacity": {"storage": "1Mi"},
                "accessModes": ["ReadOnlyMany"],
                // Of host paths, Kubernetes deletes those below /tmp.
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "zimage-test",
                "claimRef": {"namespace": self.namespace, "name": name},
                "hostPath": {"path": format!("/tmp/{}-{name}", self.namespace), "type": "DirectoryOrCreate"},
            },
        }))?;
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "zimage-test",
                "resources": {"requests": {"storage": "1Mi"}},
            },
        }))?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        volumes.create(&PostParams::default(), &volume).await?;
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &self.namespace);
        claims.create(&PostParams::default(), &claim).await?;
        Ok(())
    }

    pub(crate) async fn apply(&self, manifest: &Value) -> Result<ZImageDeployment> {
        let parameters = PatchParams::apply("zimage-tests").force();
        Ok(self
            .objects()
            .patch(NAME, &parameters, &Patch::Apply(manifest))
            .await?)
    }

    /// The object, as soon as `test` holds for it.
    pub(crate) async fn until(
        &self,
        what: &str,
        test: impl Fn(&ZImageDeployment) -> bool,
    ) -> Result<ZImageDeployment> {
        let objects = self.objects();
        wait::until(what, PATIENCE, async || {
            Ok(objects.get_opt(NAME).await?.filter(|object| test(object)))
        })
        .await
    }

    /// Waits until the whole of the present spec is Ready.
    pub(crate) async fn ready(&self) -> Result<ZImageDeployment> {
        self.until("Ready at the current generation", |object| {
            condition(object, "Ready").is_some_and(|(status, _)| status == "True")
                && object
                    .status
                    .as_ref()
                    .and_then(|status| status.observed_generation)
                    == object.metadata.generation
        })
        .await
    }

    /// Pods of a tier that are not being deleted.
    pub(crate) async fn server_pods(&self, tier: Tier) -> Result<Vec<Pod>> {
        self.live_pods(&format!(
            "{}={NAME},{}={tier}",
            labels::INSTANCE,
            labels::TIER
        ))
        .await
    }

    pub(crate) async fn gateway_pods(&self) -> Result<Vec<Pod>> {
        self.live_pods(&format!(
            "{}={NAME},{}=gateway",
            labels::INSTANCE,
            labels::COMPONENT
        ))
        .await
    }

    /// Those of both tiers and of the gateway.
    pub(crate) async fn every_pod(&self) -> Result<Vec<Pod>> {
        let mut pods = self.gateway_pods().await?;
        for tier in Tier::ALL {
            pods.extend(self.server_pods(tier).await?);
        }
        Ok(pods)
    }

    async fn live_pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let pods = self
            .pods()
            .list(&ListParams::default().labels(selector))
            .await?;
        Ok(pods
            .items
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }

    /// A way to one gateway pod.
    pub(crate) async fn gateway(&self) -> Result<Forward> {
        let pods = self.gateway_pods().await?;
        let pod = pods.first().context("there is a gateway pod")?;
        Forward::start(self.pods(), &pod.name_any(), GATEWAY_PORT).await
    }

    /// The way of a client in the cluster: through the Service, to any gateway pod.
    pub(crate) async fn service(&self) -> Result<Forward> {
        Forward::to_service(&format!("{NAME}.{}", self.namespace), 80).await
    }

    /// Every state of the split in force from now on.
    pub(crate) fn traffic(&self) -> impl Stream<Item = Result<TrafficStatus>> + use<> {
        let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        watcher(self.objects(), only)
            .applied_objects()
            .map_err(anyhow::Error::from)
            .try_filter_map(async |object| Ok(object.status.and_then(|status| status.traffic)))
    }

    /// Waits until the split in force satisfies `test`.
    pub(crate) async fn until_traffic(
        &self,
        what: &str,
        limit: Duration,
        test: impl Fn(&TrafficStatus) -> bool,
    ) -> Result<TrafficStatus> {
        let mut states = pin!(self.traffic());
        let found = async {
            while let Some(state) = states.try_next().await? {
                if test(&state) {
                    return Ok(state);
                }
            }
            anyhow::bail!("the watch ended")
        };
        tokio::time::timeout(limit, found)
            .await
            .with_context(|| format!("waited {limit:?} in vain for {what}"))?
    }

    /// The events about the object.
    pub(crate) async fn raw_events(&self) -> Result<Vec<Event>> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = ListParams::default().fields(&format!(
            "regarding.name={NAME},regarding.kind=ZImageDeployment"
        ));
        Ok(events.list(&about).await?.items)
    }

    /// Reasons and notes of the events about the object.
    pub(crate) async fn events(&self) -> Result<Vec<(String, String)>> {
        let events = self.raw_events().await?.into_iter();
        Ok(events
            .map(|event| {
                (
                    event.reason.unwrap_or_default(),
                    event.note.unwrap_or_default(),
                )
            })
            .collect())
    }
}

/// Status and reason of a condition.
pub(crate) fn condition<'a>(
    object: &'a ZImageDeployment,
    kind: &str,
) -> Option<(&'a str, &'a str)> {
    let conditions = &object.status.as_ref()?.conditions;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == kind)?;
    Some((&found.status, &found.reason))
}
