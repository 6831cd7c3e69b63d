//! Follows the deployment and its tiers' EndpointSlices.

use crate::knowledge::{Contacts, Source};
use crate::metrics::Metrics;
use crate::topology::{SERVICE_NAME, Topology};
use crate::view::View;
use futures::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::client::{Body, ClientBuilder};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tower::{BoxError, Layer, Service};
use zimage_crds::{Tier, ZImageDeployment};

/// The topology as it was known last; none before the first complete look.
pub type Known = watch::Receiver<Option<Arc<Topology>>>;

/// How long a watch lasts before it is asked for anew: an API server in contact is heard at least this often.
const WATCH_SECONDS: u32 = 30;
/// Time for a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which an answer may stand still. Longer than a watch, which may have nothing to tell.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two attempts to follow, at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often the ages are shown.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is logged that the gateway is refused.
const REMINDER: Duration = Duration::from_secs(60);

/// The API server, and when it was heard.
pub struct Cluster {
    client: Client,
    contacts: Contacts,
}

impl Cluster {
    /// The cluster that this process runs in, or that its kubeconfig names.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect() -> Result<Self, BoxError> {
        let mut config = Config::infer().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.write_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        let contacts = Contacts::default();
        let client = ClientBuilder::try_from(config)?
            .with_layer(&contacts)
            .build();
        Ok(Self { client, contacts })
    }

    /// An API server behind a service.
    pub fn over<S, B>(service: S, namespace: &str) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let contacts = Contacts::default();
        let client = Client::new(contacts.layer(service), namespace);
        Self { client, contacts }
    }
}

/// Keeps `known` current for ever. When the API server is away or refuses, what was known last stays.
pub async fn follow(
    cluster: Cluster,
    namespace: &str,
    name: &str,
    metrics: &Metrics,
    known: watch::Sender<Option<Arc<Topology>>>,
) {
    let Cluster { client, contacts } = cluster;
    let kind = ApiResource::erase::<ZImageDeployment>(&());
    let deployment = ObjectRef::<DynamicObject>::new_with(name, kind.clone()).within(namespace);
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (deployments, deployment_changes) = cached(api, kind, config);
    let services = Tier::ALL.map(|tier| format!("{name}-{tier}")).join(",");
    let api = Api::<EndpointSlice>::namespaced(client, namespace);
    let config = watcher::Config::default().labels(&format!("{SERVICE_NAME} in ({services})"));
    let (slices, slice_changes) = cached(api, (), config);
    let mut changes = pin!(futures::stream::select(deployment_changes, slice_changes));
    let mut ages = Ages::new(contacts);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            _ = look.tick() => {
                ages.show(metrics);
                continue;
            }
            change = changes.next() => match change {
                Some(change) => change,
                None => return,
            },
        };
        if let Err(error) = change {
            tracing::warn!(%error, "cannot follow the cluster; what was known last stays");
            continue;
        }
        if !is_complete(&deployments).await || !is_complete(&slices).await {
            continue;
        }
        let Some(object) = deployments.get(&deployment) else {
            tracing::warn!(
                namespace,
                name,
                "the ZImageDeployment is gone; what was known last stays"
            );
            continue;
        };
        let view = View::of(&object.data);
        for field in &view.unreadable {
            metrics.unreadable(field);
            tracing::warn!(
                field,
                "cannot read a field of the ZImageDeployment; its last known value stays"
            );
        }
        let all: Vec<EndpointSlice> = slices
            .state()
            .iter()
            .map(|slice| EndpointSlice::clone(slice))
            .collect();
        let before = known.borrow().clone();
        let topology = Topology::new(name, &view, &all, before.as_deref());
        metrics.learned(&topology);
        known.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&topology);
            if changed {
                tracing::info!(
                    primary = topology.weights.primary,
                    fallback = topology.weights.fallback,
                    primary_pods = topology.pods(Tier::Primary).len(),
                    fallback_pods = topology.pods(Tier::Fallback).len(),
                    "the topology changed"
                );
                *known = Some(Arc::new(topology));
            }
            changed
        });
    }
}

/// Shows how old the knowledge is.
struct Ages {
    contacts: Contacts,
    began: Instant,
    reminded: Option<Instant>,
}

impl Ages {
    fn new(contacts: Contacts) -> Self {
        Self {
            contacts,
            began: Instant::now(),
            reminded: None,
        }
    }

    fn show(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        for source in Source::ALL {
            let contact = self.contacts.of(source);
            let age = contact.age(now.into_std()).unwrap_or(now - self.began);
            let refused = contact.is_refused();
            metrics.knows(source, age, refused.is_some());
            let is_due = self.reminded.is_none_or(|last| now - last >= REMINDER);
            if let Some(status) = refused
                && is_due
            {
                self.reminded = Some(now);
                tracing::error!(
                    source = source.as_str(),
                    status = status.as_u16(),
                    age_seconds = age.as_secs(),
                    "the API server refuses this gateway; it serves on with what it knew last: check its ServiceAccount \
                     and Role, then replace this pod"
                );
            }
        }
    }
}

/// A cache and one item for each change of it.
fn cached<K>(
    api: Api<K>,
    kind: K::DynamicType,
    config: watcher::Config,
) -> (
    Store<K>,
    impl Stream<Item = watcher::Result<()>> + Send + 'static,
)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Clone + Eq + Hash + Unpin + Send + Sync,
{
    let writer = Writer::new(kind);
    let cache = writer.as_reader();
    let changes = watcher(api, config.timeout(WATCH_SECONDS))
        .backoff(Pauses::default())
        .reflect(writer)
        .map(|change| change.map(drop));
    (cache, changes)
}

/// Times between attempts: short enough for a gateway to be current soon after an API server that was away is back.
#[derive(Default)]
struct Pauses(watcher::DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next()?.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Whether the first list is in the cache. Asked without waiting: the answer comes with the changes.
async fn is_complete<K>(cache: &Store<K>) -> bool
where
    K: Resource + Clone + 'static,
    K::DynamicType: Clone + Eq + Hash,
{
    tokio::time::timeout(Duration::ZERO, cache.wait_until_ready())
        .await
        .is_ok_and(|ready| ready.is_ok())
}
