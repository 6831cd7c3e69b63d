//! Watches and triggers: which change leads to which reconciliation. No decisions.

use crate::args::DefaultImages;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::reconcile::build::{Peers, kinds};
use crate::reconcile::dereference::{Caches, owner_of_pod};
use crate::reconcile::{Context, ReconcileError, reconcile};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, NamespaceResourceScope, TypeMeta};
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zimage_crds::{ZImageDeployment, labels};

/// Reconciliations at the same time.
const CONCURRENCY: u16 = 16;
/// A burst of changes to one deployment within this time is one reconciliation.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Time before a failed reconciliation is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Changed decisions that wait for reconciliation.
const DECISIONS: usize = 1024;

/// What every controller shares.
#[derive(Clone)]
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// Images of parts whose spec names none.
    pub images: DefaultImages,
    /// Who may connect to the pods; `None`: everyone, without policies.
    pub peers: Option<Peers>,
    /// Events.
    pub recorder: Recorder,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// Reconciles the deployments of one namespace, or of all, until `stop`.
pub async fn run(shared: Shared, namespace: Option<&str>, stop: CancellationToken) {
    let client = &shared.client;
    let owned = watcher::Config::default().labels(&format!(
        "{}={}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE
    ));
    let (owners, owner_changes) = watch(
        typed::<ZImageDeployment>(client, namespace),
        watcher::Config::default(),
        &(),
        slim,
    );
    let (pods, pod_changes) = watch(typed::<Pod>(client, namespace), owned.clone(), &(), slim);
    let mut children = Vec::new();
    let mut child_changes = Vec::new();
    for kind in kinds() {
        let types = TypeMeta {
            api_version: kind.api_version.clone(),
            kind: kind.kind.clone(),
        };
        let prepare = move |object: &mut DynamicObject| {
            slim(object);
            // The items of a list do not carry their kind.
            object.types = Some(types.clone());
        };
        let (cache, changes) = watch(
            dynamic(client, namespace, &kind),
            owned.clone(),
            &kind,
            prepare,
        );
        children.push(cache);
        child_changes.push((kind, changes));
    }

    let observer = Arc::new(Observer::new(Arc::clone(&shared.metrics)));
    let (changed, decisions) = mpsc::channel(DECISIONS);
    let context = Arc::new(Context {
        client: shared.client,
        caches: Caches { children, pods },
        observer: Arc::clone(&observer),
        images: shared.images,
        peers: shared.peers,
        recorder: shared.recorder,
        metrics: shared.metrics,
        written: std::sync::Mutex::default(),
    });
    let root = predicates::generation.combine(predicates::finalizers);
    let owner_changes = owner_changes
        .touched_objects()
        .predicate_filter(root, PredicateConfig::default());
    let mut controller = Controller::for_stream(owner_changes, owners.clone())
        .with_config(
            Config::default()
                .concurrency(CONCURRENCY)
                .debounce(DEBOUNCE),
        )
        .watches_stream(pod_changes.touched_objects(), |pod| owner_of_pod(&pod))
        .reconcile_on(received(decisions))
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    for (kind, changes) in child_changes {
        controller = controller.owns_stream_with(changes.touched_objects(), kind);
    }

    // An incomplete cache would look like missing children.
    let reconciliations = controller.run(
        |owner, context| async move {
            synced(&context.caches).await;
            reconcile(owner, context).await
        },
        on_error,
        Arc::clone(&context),
    );
    let exists = move |deployment: &ObjectRef<ZImageDeployment>| {
        // Before the first list nothing is known to be gone.
        owners.is_empty() || owners.get(deployment).is_some()
    };
    let forgetting = forget_the_gone(Arc::clone(&context), exists.clone());
    tokio::select! {
        () = reconciliations.for_each(async |outcome| log(outcome)) => {}
        () = async { tokio::join!(observer.watch(exists, changed), forgetting); } => {}
    }
}

fn log<E: std::error::Error>(outcome: Result<(ObjectRef<ZImageDeployment>, Action), E>) {
    match outcome {
        Ok((deployment, _)) => tracing::debug!(%deployment, "reconciled"),
        // A deployment that was deleted while it waited for its turn is reported as an error too.
        Err(error) => tracing::debug!(%error, "not reconciled"),
    }
}

fn on_error(owner: Arc<ZImageDeployment>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.failed();
    let namespace = owner.namespace().unwrap_or_default();
    tracing::warn!(namespace, name = owner.name_any(), %error, "failed to reconcile; trying again");
    Action::requeue(RETRY)
}

async fn forget_the_gone(
    context: Arc<Context>,
    exists: impl Fn(&ObjectRef<ZImageDeployment>) -> bool,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(10));
    loop {
        ticks.tick().await;
        context.forget(&exists);
    }
}

async fn synced(caches: &Caches) {
    for cache in &caches.children {
        // Its writer is part of the controller that waits here, so it is not dropped before.
        let _dropped = cache.wait_until_ready().await;
    }
    let _dropped = caches.pods.wait_until_ready().await;
}

/// Objects of a known type in one namespace, or in all.
fn typed<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Objects of a kind in one namespace, or in all.
fn dynamic(client: &Client, namespace: Option<&str>, kind: &ApiResource) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => Api::all_with(client.clone(), kind),
    }
}

/// A cache and the changes that keep it current. The changes must be followed for the cache to fill.
fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: &K::DynamicType,
    prepare: impl FnMut(&mut K) + Send + 'static,
) -> (
    Store<K>,
    impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync,
{
    let writer = Writer::<K>::new(kind.clone());
    let cache = writer.as_reader();
    let changes = watcher(api, config)
        .default_backoff()
        .modify(prepare)
        .reflect(writer);
    (cache, changes)
}

/// Who owns which field is a large part of an object and read by nobody here.
fn slim<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

fn received(
    channel: mpsc::Receiver<ObjectRef<ZImageDeployment>>,
) -> impl Stream<Item = ObjectRef<ZImageDeployment>> {
    stream::unfold(channel, async |mut channel| {
        Some((channel.recv().await?, channel))
    })
}
