//! Follows the deployment and its tiers' EndpointSlices.

use crate::metrics::Metrics;
use crate::topology::{SERVICE_NAME, Topology};
use futures::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;
use zimage_crds::{Tier, ZImageDeployment};

/// The topology as it was known last; none before the first complete look.
pub type Known = watch::Receiver<Option<Arc<Topology>>>;

/// Keeps `known` current for ever. When the API server is away, what was known last stays.
pub async fn follow(
    client: Client,
    namespace: &str,
    name: &str,
    metrics: &Metrics,
    known: watch::Sender<Option<Arc<Topology>>>,
) {
    let (deployments, deployment_changes) =
        cached::<ZImageDeployment>(&client, namespace, &format!("metadata.name={name}"), "");
    let services = Tier::ALL.map(|tier| format!("{name}-{tier}")).join(",");
    let (slices, slice_changes) = cached::<EndpointSlice>(
        &client,
        namespace,
        "",
        &format!("{SERVICE_NAME} in ({services})"),
    );
    let mut changes = pin!(futures::stream::select(deployment_changes, slice_changes));
    while let Some(change) = changes.next().await {
        if let Err(error) = change {
            tracing::warn!(%error, "cannot follow the cluster; what was known last stays");
            continue;
        }
        if !is_complete(&deployments).await || !is_complete(&slices).await {
            continue;
        }
        let Some(deployment) = deployments.get(&ObjectRef::new(name).within(namespace)) else {
            tracing::warn!(
                namespace,
                name,
                "the ZImageDeployment is gone; what was known last stays"
            );
            continue;
        };
        let all: Vec<EndpointSlice> = slices
            .state()
            .iter()
            .map(|slice| EndpointSlice::clone(slice))
            .collect();
        let topology = Topology::new(&deployment, &all);
        metrics.learned(&topology);
        known.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&topology);
            if changed {
                tracing::info!(
                    primary = topology.weights.primary,
                    fallback = topology.weights.fallback,
                    primary_pods = topology.primary_pods.len(),
                    fallback_pods = topology.fallback_pods.len(),
                    "the topology changed"
                );
                *known = Some(Arc::new(topology));
            }
            changed
        });
    }
}

/// A cache and one item for each change of it.
fn cached<K>(
    client: &Client,
    namespace: &str,
    fields: &str,
    labels: &str,
) -> (
    Store<K>,
    impl Stream<Item = watcher::Result<()>> + Send + 'static,
)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (cache, writer) = store();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().fields(fields).labels(labels);
    let changes = watcher(api, config)
        .default_backoff()
        .reflect(writer)
        .map(|change| change.map(drop));
    (cache, changes)
}

/// Whether the first list is in the cache. Asked without waiting: the answer comes with the changes.
async fn is_complete<K>(cache: &Store<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    tokio::time::timeout(std::time::Duration::ZERO, cache.wait_until_ready())
        .await
        .is_ok_and(|ready| ready.is_ok())
}
