//! Reads the tiers' load from their pods and keeps the traffic decision of every deployment current.
//!
//! Reconciliation names the pods ([`Observer::decide`]); [`Observer::watch`] then scrapes their `/metrics` each second
//! and reports a deployment whose decision no longer agrees with its status.

mod exposition;
mod sample;

use crate::traffic::{self, Memory, Observation, Policy};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use sample::Samples;
use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use zimage_crds::{TrafficStatus, ZImageDeployment};

pub use exposition::{UTILIZATION, WAITING};
pub use sample::{PodTarget, TierTargets};

type DeploymentRef = ObjectRef<ZImageDeployment>;

/// How often each pod is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one pod may take to answer; shorter than the interval, so that rounds do not pile up.
const SCRAPE_TIMEOUT: Duration = Duration::from_millis(900);
/// Largest answer that is read.
const MAX_EXPOSITION_BYTES: usize = 1 << 20;
/// Pods read at the same time.
const CONCURRENT_SCRAPES: usize = 64;

/// The traffic decisions of all deployments.
pub struct Observer {
    client: reqwest::Client,
    watched: Mutex<HashMap<DeploymentRef, Watched>>,
}

/// One deployment as the last reconciliation described it.
struct Watched {
    policy: Policy,
    primary: Samples,
    fallback: Samples,
    memory: Memory,
    /// What the status shows or is about to show.
    published: Option<Decision>,
}

/// What reconciliation knows about a deployment's traffic.
pub struct Situation<'a> {
    /// The spec's part.
    pub policy: Policy,
    /// Ready pods of the primary tier.
    pub primary: TierTargets,
    /// Ready pods of the fallback tier.
    pub fallback: TierTargets,
    /// The status as it is, empty before the first reconciliation.
    pub status: Option<&'a TrafficStatus>,
}

/// A decision together with the observation that it rests on.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Weights, state and reason.
    pub memory: Memory,
    /// What was seen.
    pub observation: Observation,
}

impl Decision {
    /// Whether both lead to the same status: figures may differ, not whether there are any.
    fn shows_the_same(&self, other: &Self) -> bool {
        let load = |decision: &Self| mem::discriminant(&decision.observation.primary.load);
        self.memory.agrees_with(&other.memory) && load(self) == load(other)
    }
}

impl Observer {
    /// An observer of nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(SCRAPE_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            client,
            watched: Mutex::new(HashMap::new()),
        })
    }

    /// The decision for a deployment, now. Its pods are read each second from here on.
    pub fn decide(
        &self,
        deployment: &DeploymentRef,
        situation: Situation<'_>,
        now: Timestamp,
    ) -> Decision {
        let mut watched = self.lock();
        let entry = watched.entry(deployment.clone()).or_insert_with(|| {
            let memory = situation
                .status
                .map_or_else(|| Memory::new(&situation.policy, now), Memory::from_status);
            Watched {
                policy: situation.policy.clone(),
                primary: Samples::default(),
                fallback: Samples::default(),
                published: None,
                memory,
            }
        });
        entry.policy = situation.policy;
        entry.primary.follow(situation.primary, now);
        entry.fallback.follow(situation.fallback, now);
        let decision = entry.decide(now);
        entry.published = Some(decision.clone());
        decision
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
        loop {
            ticks.tick().await;
            self.lock().retain(|deployment, _| exists(deployment));
            self.scrape().await;
            for deployment in self.decide_all(Timestamp::now()) {
                // A full channel means that reconciliation is behind; the next round reports the same again.
                if changed.try_send(deployment).is_err() && changed.is_closed() {
                    return;
                }
            }
        }
    }

    async fn scrape(&self) {
        let targets: Vec<_> = self
            .lock()
            .iter()
            .flat_map(|(name, entry)| entry.targets(name))
            .collect();
        let mut answers = stream::iter(targets)
            .map(|(deployment, pod)| async move {
                let text = self.fetch(&pod).await;
                (deployment, pod, text)
            })
            .buffer_unordered(CONCURRENT_SCRAPES);
        while let Some((deployment, pod, text)) = answers.next().await {
            let figures = match text {
                Ok(text) => exposition::parse(&text),
                Err(error) => {
                    tracing::debug!(pod = pod.name, %error, "failed to read a pod's metrics");
                    continue;
                }
            };
            if let Some(entry) = self.lock().get_mut(&deployment) {
                entry.primary.record(&pod, figures, Timestamp::now());
                entry.fallback.record(&pod, figures, Timestamp::now());
            }
        }
    }

    async fn fetch(&self, pod: &PodTarget) -> Result<String, reqwest::Error> {
        let url = format!("http://{}/metrics", pod.address);
        let mut chunks = self
            .client
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .bytes_stream();
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk?);
            if body.len() > MAX_EXPOSITION_BYTES {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn decide_all(&self, now: Timestamp) -> Vec<DeploymentRef> {
        let mut watched = self.lock();
        let mut changed = Vec::new();
        for (deployment, entry) in watched.iter_mut() {
            let decision = entry.decide(now);
            if !entry
                .published
                .as_ref()
                .is_some_and(|published| decision.shows_the_same(published))
            {
                changed.push(deployment.clone());
            }
        }
        changed
    }

    /// A panic while the lock was held cannot leave an entry half written: each field is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentRef, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn decide(&mut self, now: Timestamp) -> Decision {
        let observation = Observation {
            primary: self.primary.observe(now),
            fallback: self.fallback.observe(now),
        };
        self.memory = traffic::decide(&self.policy, &observation, &self.memory, now);
        Decision {
            memory: self.memory.clone(),
            observation,
        }
    }

    fn targets(&self, deployment: &DeploymentRef) -> Vec<(DeploymentRef, PodTarget)> {
        let pods = self.primary.pods().chain(self.fallback.pods());
        pods.map(|pod| (deployment.clone(), pod.clone())).collect()
    }
}
