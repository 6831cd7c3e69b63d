//! Reads the tiers' load and the gateways' knowledge from their pods and keeps the traffic decision of every deployment
//! current.
//!
//! Reconciliation names the pods ([`Observer::decide`]); [`Observer::watch`] then reads their `/metrics` each second
//! and reports a deployment whose decision no longer agrees with its status.
//!
//! Deployments belong to tenants that do not trust each other. Each has a round of its own, a few pods at a time, and
//! rounds do not wait for each other: pods that never answer make the figures of their own deployment old, and no other's.

mod exposition;
mod metrics;
mod sample;
mod scrape;

#[cfg(test)]
mod tests;

use crate::clock::Moment;
use crate::component::{Component, DeploymentRef};
use crate::decide::traffic::Observation;
use crate::decide::{self, Decision};
use futures::stream::{self, FuturesUnordered, StreamExt};
use sample::Samples;
use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use zimage_crds::{PerTier, TrafficStatus, ZImageDeployment};

pub use metrics::{DecisionGauges, ScrapeMetrics};
pub use sample::{Knowledge, PodTarget, Targets};

/// How often each pod is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a deployment's round may take. What was not read by then is read in the next one.
const ROUND: Duration = Duration::from_secs(4);
/// Pods of one deployment that are read at the same time.
const CONCURRENT_PODS: usize = 8;
/// Pods of all deployments that are read at the same time, each with about 100 KiB of buffers in the program and the
/// kernel. Places are given in the order in which they are asked for, so no deployment waits longer than it takes to serve
/// [`CONCURRENT_PODS`] of each other one.
const CONNECTIONS: usize = 512;

/// The traffic decisions of all deployments.
pub struct Observer {
    metrics: ScrapeMetrics,
    connections: Semaphore,
    tracked: Mutex<HashMap<DeploymentRef, Tracked>>,
    /// When the loop of [`Self::watch`] turned last.
    turned: Mutex<Option<Instant>>,
}

/// One deployment as the last reconciliation described it.
struct Tracked {
    owner: Arc<ZImageDeployment>,
    servers: PerTier<Samples>,
    gateway: Samples,
    decision: Decision,
    /// What the status shows or is about to show.
    published: Option<Snapshot>,
    /// A round of its pods is on its way.
    is_being_read: bool,
}

/// The ready pods of a deployment.
#[derive(Clone, Debug, Default)]
pub struct ReadyPods {
    /// Those of each tier.
    pub servers: PerTier<Targets>,
    /// The gateway's.
    pub gateway: Targets,
}

/// A decision together with what was seen at its time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What is in force.
    pub decision: Decision,
    /// The tiers, by which it was decided.
    pub observation: Observation,
    /// What the gateway knows.
    pub knowledge: Knowledge,
}

impl Snapshot {
    /// Whether both lead to the same objects and the same status: figures may differ, not whether there are any.
    fn shows_the_same(&self, other: &Self) -> bool {
        let load = |snapshot: &Self| mem::discriminant(&snapshot.observation.primary.load);
        self.decision.agrees_with(&other.decision)
            && load(self) == load(other)
            && self.knowledge.outdated == other.knowledge.outdated
    }
}

impl Observer {
    /// An observer of nothing, which counts what it reads in `metrics`.
    pub fn new(metrics: ScrapeMetrics) -> Self {
        Self {
            metrics,
            connections: Semaphore::new(CONNECTIONS),
            tracked: Mutex::default(),
            turned: Mutex::default(),
        }
    }

    /// How long no decision was taken although there is somebody to take them.
    pub fn still_for(&self) -> Duration {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        turned.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// The decision for a deployment, now; `status` is what an earlier process left. Its pods are read each second from here
    /// on.
    pub fn decide(
        &self,
        owner: &Arc<ZImageDeployment>,
        pods: ReadyPods,
        status: Option<&TrafficStatus>,
        now: Moment,
    ) -> Snapshot {
        let mut tracked = self.lock();
        let deployment = DeploymentRef::from_obj(owner.as_ref());
        let entry = tracked.entry(deployment).or_insert_with(|| Tracked {
            owner: Arc::clone(owner),
            servers: PerTier::default(),
            gateway: Samples::default(),
            decision: Decision::begin(&owner.spec, status, now),
            published: None,
            is_being_read: false,
        });
        entry.owner = Arc::clone(owner);
        for (tier, pods) in pods.servers {
            entry.servers[tier].follow(pods, now.monotonic);
        }
        entry.gateway.follow(pods.gateway, now.monotonic);
        let snapshot = entry.decide(now);
        entry.published = Some(snapshot.clone());
        snapshot
    }

    /// Each deployment's decision in force, and what is seen of it now.
    fn in_force(&self, now: Moment) -> Vec<(DeploymentRef, Snapshot)> {
        let tracked = self.lock();
        let decisions = tracked
            .iter()
            .map(|(deployment, entry)| (deployment.clone(), entry.in_force(now)));
        decisions.collect()
    }

    /// Reads all pods each second, for ever, and sends each deployment whose decision changed.
    ///
    /// `exists` tells whether a deployment is still there; what is gone is forgotten.
    pub async fn watch(
        &self,
        exists: impl Fn(&DeploymentRef) -> bool,
        changed: mpsc::Sender<DeploymentRef>,
    ) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut rounds = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    self.forget_the_gone(&exists);
                    rounds.extend(self.due().into_iter().map(|(deployment, pods)| self.round(deployment, pods)));
                }
                Some(deployment) = rounds.next() => {
                    if self.has_changed(&deployment, Moment::now())
                        // A full channel means that reconciliation is behind; the next round reports the same again.
                        && changed.try_send(deployment).is_err()
                        && changed.is_closed()
                    {
                        return;
                    }
                }
            }
        }
    }

    fn forget_the_gone(&self, exists: impl Fn(&DeploymentRef) -> bool) {
        self.lock().retain(|deployment, _| exists(deployment));
    }

    /// The deployments of which no round is on its way, each with its pods, and takes note that one is now.
    fn due(&self) -> Vec<(DeploymentRef, Vec<(Component, PodTarget)>)> {
        let mut tracked = self.lock();
        let due = tracked.iter_mut().filter_map(|(deployment, entry)| {
            let is_free = !mem::replace(&mut entry.is_being_read, true);
            is_free.then(|| (deployment.clone(), entry.targets()))
        });
        due.collect()
    }

    /// Reads a deployment's pods once.
    async fn round(
        &self,
        deployment: DeploymentRef,
        pods: Vec<(Component, PodTarget)>,
    ) -> DeploymentRef {
        let reading = stream::iter(pods)
            .for_each_concurrent(CONCURRENT_PODS, |(component, pod)| {
                self.read(&deployment, component, pod)
            });
        // A pod that was not reached in time has an old sample, which says so.
        let _all_read = tokio::time::timeout(ROUND, reading).await;
        deployment
    }

    async fn read(&self, deployment: &DeploymentRef, component: Component, pod: PodTarget) {
        // Never closed.
        let Ok(_place) = self.connections.acquire().await else {
            return;
        };
        let outcome = scrape::scrape(pod.address, |bytes| self.metrics.read(bytes)).await;
        let mut tracked = self.lock();
        let Some(entry) = tracked.get_mut(deployment) else {
            return;
        };
        let samples = entry.samples(component);
        match outcome {
            Ok(figures) => samples.record(&pod, figures, Instant::now()),
            Err(error) => {
                self.metrics.failed(error.outcome());
                // Once for each pod: a tenant with pods that never answer fills no log.
                if samples.fail(&pod) {
                    tracing::warn!(%deployment, pod = pod.name, %error, "failed to read a pod's figures");
                }
            }
        }
    }

    /// Decides anew after a round. Whether the status does not show it.
    fn has_changed(&self, deployment: &DeploymentRef, now: Moment) -> bool {
        let mut tracked = self.lock();
        let Some(entry) = tracked.get_mut(deployment) else {
            return false;
        };
        entry.is_being_read = false;
        let snapshot = entry.decide(now);
        let published = entry.published.as_ref();
        !published.is_some_and(|published| snapshot.shows_the_same(published))
    }

    /// A panic while the lock was held cannot leave an entry half written: each field is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentRef, Tracked>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracked {
    fn decide(&mut self, now: Moment) -> Snapshot {
        let inputs = decide::Inputs {
            spec: &self.owner.spec,
            observation: self.observe(now),
            now,
        };
        self.decision = decide::decide(&inputs, &self.decision);
        self.in_force(now)
    }

    fn in_force(&self, now: Moment) -> Snapshot {
        Snapshot {
            decision: self.decision.clone(),
            observation: self.observe(now),
            knowledge: self.gateway.knowledge(now.monotonic),
        }
    }

    fn observe(&self, now: Moment) -> Observation {
        let servers = self.servers.as_ref();
        servers.map(|_, samples| samples.observe(now.monotonic))
    }

    fn samples(&mut self, component: Component) -> &mut Samples {
        match component {
            Component::Server(tier) => &mut self.servers[tier],
            Component::Gateway => &mut self.gateway,
        }
    }

    fn targets(&self) -> Vec<(Component, PodTarget)> {
        let of_servers = self.servers.iter();
        let of_servers = of_servers.map(|(tier, samples)| (Component::Server(tier), samples));
        of_servers
            .chain([(Component::Gateway, &self.gateway)])
            .flat_map(|(component, samples)| {
                samples.pods().map(move |pod| (component, pod.clone()))
            })
            .collect()
    }
}
