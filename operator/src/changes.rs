//! The deployments of one scope: which there are, which changed and wait for their reconciliation, and which this leader has
//! reconciled at least once. Nothing here waits for anything, so nothing can be lost in a wait.

use crate::component::DeploymentRef;
use kube::{Resource, ResourceExt};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use zimage_crds::ZImageDeployment;

/// A change that was handed over is handed over again when its reconciliation has not begun after this time.
const AGAIN: Duration = Duration::from_secs(10);

/// How often it is looked for such a change.
const LOOK: Duration = Duration::from_secs(1);

/// Deployments and their changes. Bounded by the number of deployments: a second change of one joins the first.
#[derive(Debug)]
pub struct Changes {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug)]
struct State {
    known: HashMap<DeploymentRef, Version>,
    waiting: HashMap<DeploymentRef, Waiting>,
    followed: HashSet<DeploymentRef>,
    running: usize,
    /// When a reconciliation began or ended last, or there was nothing to do.
    progress: Instant,
    acts: bool,
}

/// What of a deployment, when it changes, is worth a reconciliation: not its status, which is the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    uid: Option<String>,
    generation: Option<i64>,
    is_deleted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    handed_over: Option<Instant>,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Deployments that exist.
    pub known: usize,
    /// Those that were reconciled at least once since this process leads.
    pub followed: usize,
    /// Age of the oldest change whose reconciliation has not begun.
    pub oldest: Duration,
    /// How long nothing began or ended although something is to be done.
    pub stuck: Duration,
    /// Whether this process leads.
    pub acts: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                known: HashMap::new(),
                waiting: HashMap::new(),
                followed: HashSet::new(),
                running: 0,
                progress: Instant::now(),
                acts: false,
            }),
            more: Notify::new(),
        }
    }
}

impl Changes {
    /// These are all there are, and each may have changed.
    pub fn all(&self, deployments: impl IntoIterator<Item = impl AsRef<ZImageDeployment>>) {
        let deployments = deployments.into_iter();
        let known: HashMap<_, _> = deployments.map(|it| version(it.as_ref())).collect();
        let mut state = self.lock();
        state.waiting.retain(|name, _| known.contains_key(name));
        state.followed.retain(|name| known.contains_key(name));
        state.known = known;
        state.wait_all();
        drop(state);
        self.more.notify_one();
    }

    /// Anything may have changed for every deployment.
    pub fn any(&self) {
        self.lock().wait_all();
        self.more.notify_one();
    }

    /// A deployment is there, as it is now.
    pub fn applied(&self, deployment: &ZImageDeployment) {
        let (name, version) = version(deployment);
        let mut state = self.lock();
        if state.known.insert(name.clone(), version.clone()).as_ref() == Some(&version) {
            return;
        }
        state.wait(name);
        drop(state);
        self.more.notify_one();
    }

    /// A deployment is gone. Names that it had may be free for others now.
    pub fn deleted(&self, deployment: &ZImageDeployment) {
        let (name, _) = version(deployment);
        let mut state = self.lock();
        state.known.remove(&name);
        state.waiting.remove(&name);
        state.followed.remove(&name);
        state.wait_all();
        drop(state);
        self.more.notify_one();
    }

    /// Something that belongs to a deployment changed. One that does not exist has nothing.
    pub fn touched(&self, deployment: DeploymentRef) {
        let mut state = self.lock();
        if state.known.contains_key(&deployment) {
            state.wait(deployment);
            drop(state);
            self.more.notify_one();
        }
    }

    /// This process leads from now on: every deployment is to be reconciled.
    pub fn lead(&self) {
        let mut state = self.lock();
        state.acts = true;
        state.progress = Instant::now();
        state.followed.clear();
        state.waiting.clear();
        state.wait_all();
        drop(state);
        self.more.notify_one();
    }

    /// The next change to hand over.
    pub async fn next(&self) -> DeploymentRef {
        loop {
            let more = self.more.notified();
            if let Some(deployment) = self.lock().hand_over() {
                return deployment;
            }
            tokio::select! {
                () = more => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// A reconciliation begins: it sees all that changed until now.
    pub fn begins(&self, deployment: &DeploymentRef) {
        let mut state = self.lock();
        state.waiting.remove(deployment);
        state.running += 1;
        state.progress = Instant::now();
    }

    /// A reconciliation has ended, well or not.
    pub fn ended(&self, deployment: &DeploymentRef) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        state.progress = Instant::now();
        if state.known.contains_key(deployment) {
            state.followed.insert(deployment.clone());
        }
    }

    /// How far the work is.
    pub fn progress(&self) -> Progress {
        let mut state = self.lock();
        if !state.acts || (state.waiting.is_empty() && state.running == 0) {
            state.progress = Instant::now();
        }
        let oldest = state
            .waiting
            .values()
            .map(|waiting| waiting.since.elapsed());
        Progress {
            known: state.known.len(),
            followed: state.followed.len(),
            oldest: oldest.max().filter(|_| state.acts).unwrap_or_default(),
            stuck: state.progress.elapsed(),
            acts: state.acts,
        }
    }

    /// Whether a deployment exists.
    pub fn exists(&self, deployment: &DeploymentRef) -> bool {
        self.lock().known.contains_key(deployment)
    }

    /// A panic while the lock was held leaves at most a change that is handed over once more.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, deployment: DeploymentRef) {
        let now = Waiting {
            since: Instant::now(),
            handed_over: None,
        };
        self.waiting.entry(deployment).or_insert(now);
    }

    fn wait_all(&mut self) {
        let all: Vec<_> = self.known.keys().cloned().collect();
        for deployment in all {
            self.wait(deployment);
        }
    }

    fn hand_over(&mut self) -> Option<DeploymentRef> {
        let due = |waiting: &Waiting| waiting.handed_over.is_none_or(|at| at.elapsed() >= AGAIN);
        let candidates = self.waiting.iter_mut().filter(|(_, waiting)| due(waiting));
        let (deployment, waiting) = candidates.min_by_key(|(_, waiting)| waiting.since)?;
        waiting.handed_over = Some(Instant::now());
        Some(deployment.clone())
    }
}

fn version(deployment: &ZImageDeployment) -> (DeploymentRef, Version) {
    let meta = deployment.meta();
    let version = Version {
        uid: deployment.uid(),
        generation: meta.generation,
        is_deleted: meta.deletion_timestamp.is_some(),
    };
    (DeploymentRef::from_obj(deployment), version)
}

#[cfg(test)]
mod tests;
