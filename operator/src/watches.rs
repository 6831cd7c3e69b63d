//! The lists that the operator follows: deployments, their children, their pods. Each is read and watched by a task of its
//! own from the start of the process on, whoever leads; one that is refused or slow holds up none of the others.

mod list;

use crate::changes::Changes;
use crate::component::DeploymentRef;
use crate::reconcile::build::{is_optional, kinds};
use crate::reconcile::dereference::{Caches, Children, owner_of_child, owner_of_pod};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject};
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, DeserializeGuard, NamespaceResourceScope, ObjectMeta, TypeMeta};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::{Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use list::List;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use zimage_crds::{ZImageDeployment, labels};

/// The longest pause between two attempts at a list.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A list of which nothing more arrived for this time is begun again.
const STALLED: Duration = Duration::from_secs(150);
/// Seconds after which a watch is begun anew, from where it was: the most that a dead one goes unnoticed.
const WATCH_SECONDS: u32 = 60;
/// What is followed of one namespace, or of all.
pub struct Scope {
    /// The namespace; `None`: all.
    pub namespace: Option<String>,
    /// The deployments.
    pub owners: Store<ZImageDeployment>,
    /// What belongs to them.
    pub caches: Caches,
    /// Which of them changed.
    pub changes: Arc<Changes>,
    lists: Vec<Arc<List>>,
}

impl Scope {
    /// Begins to follow. The tasks run as long as the process.
    pub fn follow(client: &Client, namespace: Option<&str>, tasks: &TaskTracker) -> Self {
        let changes = Arc::new(Changes::default());
        let mut watches = Watches {
            namespace,
            tasks,
            changes: Arc::clone(&changes),
            lists: Vec::new(),
        };
        let owners = watches.owners(typed(client, namespace));
        let pods = watches.pods(typed(client, namespace));
        let children = kinds().into_iter();
        let children =
            children.map(|kind| watches.children(dynamic(client, namespace, &kind), kind));
        let children = children.collect();
        Self {
            namespace: namespace.map(str::to_owned),
            owners: owners.clone(),
            caches: Caches {
                owners,
                children,
                pods,
            },
            changes,
            lists: watches.lists,
        }
    }

    /// What is wrong with each list that is not whole, or whose watch is broken for a while. Empty: all is known.
    pub fn obstacles(&self) -> Vec<String> {
        self.lists
            .iter()
            .filter_map(|list| list.obstacle())
            .collect()
    }

    /// Every list: what it is of, and whether it was read to its end.
    pub fn lists(&self) -> impl Iterator<Item = (&str, bool)> {
        self.lists
            .iter()
            .map(|list| (list.kind.as_str(), list.is_whole()))
    }

    /// Whether every list was read to its end, but those of kinds of children that the API server does not have.
    pub fn is_whole(&self) -> bool {
        self.lists.iter().all(|list| list.is_settled())
    }
}

/// What the watches of one scope have in common.
struct Watches<'a> {
    namespace: Option<&'a str>,
    tasks: &'a TaskTracker,
    changes: Arc<Changes>,
    lists: Vec<Arc<List>>,
}

impl Watches<'_> {
    fn list(&mut self, kind: &str, is_optional: bool) -> Arc<List> {
        let list = Arc::new(List::new(kind, self.namespace, is_optional));
        self.lists.push(Arc::clone(&list));
        list
    }

    /// One deployment that cannot be read, written by a later version, say, must not hide the others.
    fn owners(&mut self, api: Api<DeserializeGuard<ZImageDeployment>>) -> Store<ZImageDeployment> {
        let list = self.list(&ZImageDeployment::kind(&()), false);
        let mut writer = Writer::<ZImageDeployment>::new(());
        let owners = writer.as_reader();
        let (cache, changes) = (writer.as_reader(), Arc::clone(&self.changes));
        let on_event = move |event: Event<DeserializeGuard<ZImageDeployment>>| {
            let known = |metadata: &ObjectMeta| {
                let name = metadata.name.as_deref().unwrap_or_default();
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                cache.get(&ObjectRef::new(name).within(namespace))
            };
            let Some(event) = readable(event, known) else {
                return;
            };
            writer.apply_watcher_event(&event);
            match event {
                Event::Apply(owner) => changes.applied(&owner),
                Event::Delete(owner) => changes.deleted(&owner),
                Event::InitDone => changes.all(cache.state()),
                Event::Init | Event::InitApply(_) => {}
            }
        };
        self.tasks.spawn(follow(
            list,
            move || watcher(api.clone(), config()),
            on_event,
        ));
        owners
    }

    fn pods(&mut self, api: Api<Pod>) -> Store<Pod> {
        let list = self.list(&Pod::kind(&()), false);
        self.belongings(list, (), api, slim, owner_of_pod)
    }

    /// Where the cluster lacks a kind that deployments can do without, there are none of it.
    fn children(&mut self, api: Api<DynamicObject>, kind: ApiResource) -> Children {
        let types = TypeMeta {
            api_version: kind.api_version.clone(),
            kind: kind.kind.clone(),
        };
        let prepare = move |object: &mut DynamicObject| {
            slim(object);
            // The items of a list do not carry their kind.
            object.types = Some(types.clone());
        };
        let list = self.list(&kind.kind, is_optional(&kind));
        Children {
            kind: kind.clone(),
            is_served: Arc::clone(&list.is_served),
            objects: self.belongings(list, kind, api, prepare, owner_of_child),
        }
    }

    /// Follows what belongs to deployments. What vanished while nothing was watched is told by no event: after each list any
    /// deployment may have lost something.
    fn belongings<K>(
        &self,
        list: Arc<List>,
        kind: K::DynamicType,
        api: Api<K>,
        prepare: impl Fn(&mut K) + Send + 'static,
        owner_of: impl Fn(&K) -> Option<DeploymentRef> + Send + 'static,
    ) -> Store<K>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync + Unpin,
    {
        let mut writer = Writer::<K>::new(kind);
        let cache = writer.as_reader();
        let changes = Arc::clone(&self.changes);
        let on_event = move |mut event: Event<K>| {
            if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) =
                &mut event
            {
                prepare(object);
            }
            writer.apply_watcher_event(&event);
            match &event {
                Event::Apply(object) | Event::Delete(object) => {
                    if let Some(owner) = owner_of(object) {
                        changes.touched(owner);
                    }
                }
                Event::InitDone => changes.any(),
                Event::Init | Event::InitApply(_) => {}
            }
        };
        let ours = format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE);
        let begin = move || watcher(api.clone(), config().labels(&ours));
        self.tasks.spawn(follow(list, begin, on_event));
        cache
    }
}

/// Bytes of an annotation that is kept.
const LONGEST_ANNOTATION: usize = 1024;

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// Reads and watches for ever.
async fn follow<K, S>(list: Arc<List>, begin: impl Fn() -> S, mut on_event: impl FnMut(Event<K>))
where
    S: Stream<Item = watcher::Result<Event<K>>>,
{
    loop {
        let mut events = Box::pin(begin());
        let mut pauses = pauses();
        let mut is_listing = true;
        loop {
            let next = events.next();
            let next = match is_listing {
                true => timeout(STALLED, next).await,
                false => Ok(next.await),
            };
            match next {
                Ok(Some(Ok(event))) => {
                    match &event {
                        Event::Init => is_listing = true,
                        Event::InitDone => is_listing = false,
                        _ => {}
                    }
                    let is_done = matches!(event, Event::InitDone);
                    let is_change = matches!(event, Event::Apply(_) | Event::Delete(_));
                    if is_done {
                        // First: whoever sees what was read must not take the kind for one that there is not.
                        list.is_served.store(true, Ordering::Relaxed);
                    }
                    on_event(event);
                    if is_done {
                        list.completed();
                    } else if is_change {
                        list.changed();
                    }
                    if is_done || is_change {
                        pauses = self::pauses();
                    }
                }
                Ok(Some(Err(error))) => {
                    list.failed(&error);
                    sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
                }
                // Nothing more of a list for a long time, or the end of a stream that has none: once more from the start.
                Ok(None) | Err(_) => break,
            }
        }
    }
}

fn pauses() -> impl Iterator<Item = Duration> + Send {
    std::iter::successors(Some(Duration::from_millis(250)), |pause| {
        Some((*pause * 2).min(LONGEST_PAUSE))
    })
}

/// The event without deployments that cannot be read, which are told in the log and left alone: one that was `known` is
/// followed no more, as if it were deleted.
fn readable(
    event: Event<DeserializeGuard<ZImageDeployment>>,
    known: impl Fn(&ObjectMeta) -> Option<Arc<ZImageDeployment>>,
) -> Option<Event<ZImageDeployment>> {
    let gone = |invalid: InvalidObject| {
        let known = known(&invalid.metadata);
        let (namespace, name) = (invalid.metadata.namespace, invalid.metadata.name);
        tracing::warn!(
            namespace,
            name,
            error = invalid.error,
            "this ZImageDeployment cannot be read, and is left alone"
        );
        known.map(|known| Event::Delete((*known).clone()))
    };
    let slimmed = |mut owner: ZImageDeployment| {
        slim(&mut owner);
        owner
    };
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(guard) => match guard.0 {
            Ok(owner) => Event::InitApply(slimmed(owner)),
            Err(invalid) => {
                // What the list does not hold is forgotten at its end.
                gone(invalid);
                return None;
            }
        },
        Event::Apply(guard) => match guard.0 {
            Ok(owner) => Event::Apply(slimmed(owner)),
            Err(invalid) => return gone(invalid),
        },
        Event::Delete(guard) => match guard.0 {
            Ok(owner) => Event::Delete(slimmed(owner)),
            Err(invalid) => return gone(invalid),
        },
    })
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

/// Leaves out what is a large part of an object and read by nobody here: who owns which field, and long annotations, which
/// anybody who may write such an object could fill this program's memory with.
fn slim<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, value| name.len() + value.len() <= LONGEST_ANNOTATION);
    }
}

#[cfg(test)]
mod tests;
