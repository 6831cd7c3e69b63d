//! What this gateway has in hand at each pod: requests, health, idle connections.

use crate::budget::Budget;
use crate::health::{Failure, Health, Standing};
use crate::metrics::Metrics;
use crate::route::{Contestant, out_of_rotation};
use crate::topology::Topology;
use crate::upstream::{Class, Connection, Idle, dial_in_time};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use zimage_crds::Tier;

/// A pod with requests that says nothing for this long is asked for a sign of life.
const QUIET: Duration = Duration::from_millis(750);
/// Signs of life in a row that did not come: then the pod is silent.
const MISSES: u32 = 2;

/// One pod. A pod that comes back, or another one at the same address, is another `Pod`.
pub(crate) struct Pod {
    pub(crate) address: SocketAddr,
    uid: String,
    shared: Shared,
    state: Mutex<State>,
    pub(crate) idle: Idle,
    /// Changes each time that the pod is found to be silent.
    silences: watch::Sender<()>,
}

/// What all pods tell of themselves to.
#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    retries: Arc<Mutex<Budget>>,
}

struct State {
    health: Health,
    in_flight: usize,
    /// Requests of these that have no answer yet.
    waiting: usize,
    sign_of_life: Instant,
    misses: u32,
    is_probed: bool,
    /// When its requests were left behind last.
    left: Option<Instant>,
}

/// A pod that leaves the rotation more often leaves no further retries behind.
const LEAVES_ONCE_IN: Duration = Duration::from_secs(10);

impl Pod {
    fn new(address: SocketAddr, uid: &str, shared: &Shared) -> Self {
        Self {
            address,
            uid: uid.to_owned(),
            shared: shared.clone(),
            state: Mutex::new(State {
                health: Health::default(),
                in_flight: 0,
                waiting: 0,
                sign_of_life: Instant::now(),
                misses: 0,
                is_probed: false,
                left: None,
            }),
            idle: Idle::default(),
            silences: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contestant(&self, tier: Tier) -> Contestant {
        let state = self.lock();
        Contestant {
            tier,
            pod: self.address,
            standing: state.health.standing(),
            full_for: state.health.full_for(Instant::now().into_std()),
            load: state.in_flight,
        }
    }

    /// Begins to dial. The dial comes to its end also when nobody waits for it any more: the connection is kept then, or the
    /// pod has failed. It takes a second at most.
    pub(crate) fn begin_dial(self: &Arc<Self>, class: Class) -> oneshot::Receiver<Connection> {
        let (sender, receiver) = oneshot::channel();
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            match dial_in_time(pod.address, class).await {
                Ok(connection) => {
                    if let Err(connection) = sender.send(connection)
                        && class == Class::Small
                    {
                        pod.idle.keep(connection);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, pod = %pod.address, "no connection");
                    pod.failed(Failure::Connect);
                }
            }
        });
        receiver
    }

    /// Counts a request that is sent to the pod.
    pub(crate) fn ask(self: &Arc<Self>) -> Asked {
        let mut state = self.lock();
        state.health.asked(Instant::now().into_std());
        state.in_flight += 1;
        if state.waiting == 0 {
            state.sign_of_life = Instant::now();
            state.misses = 0;
        }
        state.waiting += 1;
        drop(state);
        Asked {
            pod: Arc::clone(self),
            is_waiting: true,
            has_place: false,
        }
    }

    pub(crate) fn failed(&self, failure: Failure) {
        let out = self
            .lock()
            .health
            .failed(failure, Instant::now().into_std());
        self.tell(failure, out);
    }

    fn tell(&self, failure: Failure, out: Option<Duration>) {
        let Some(time) = out else { return };
        self.idle.clear();
        self.leave_behind();
        self.shared.metrics.ejected(failure);
        tracing::warn!(
            pod = %self.address,
            reason = failure.as_str(),
            seconds = time.as_secs(),
            "the pod is out of rotation"
        );
    }

    /// The requests that wait for the pod may be sent again, whatever the retry budget says; but not those of a pod that
    /// leaves and comes back all the time.
    fn leave_behind(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.left.is_some_and(|left| now - left < LEAVES_ONCE_IN) {
            return;
        }
        state.left = Some(now);
        let waiting = state.waiting;
        drop(state);
        let retries = &self.shared.retries;
        let mut retries = retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries.left_behind(waiting, now.into_std());
    }

    /// Resolves when the pod is found to be silent.
    pub(crate) fn silences(&self) -> watch::Receiver<()> {
        self.silences.subscribe()
    }

    /// Whether the pod must be probed now; then [`Self::probed`] must follow.
    pub(crate) fn begin_probe(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let is_quiet = state.waiting > 0 && now - state.sign_of_life >= QUIET;
        let is_due = !state.is_probed && (is_quiet || state.health.wants_probe(now.into_std()));
        state.is_probed |= is_due;
        is_due
    }

    /// What a probe found.
    pub(crate) fn probed(&self, answers: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        state.is_probed = false;
        let mut out = state.health.probed(answers, now.into_std());
        let mut failure = Failure::Connect;
        if answers {
            state.misses = 0;
            state.sign_of_life = now;
        } else if state.waiting > 0 {
            state.misses += 1;
            if state.misses >= MISSES {
                state.misses = 0;
                failure = Failure::Silent;
                out = state.health.failed(failure, now.into_std()).or(out);
            }
        }
        drop(state);
        self.tell(failure, out);
        if failure == Failure::Silent {
            self.silences.send_replace(());
        }
    }
}

/// One request at a pod, until it is dropped.
pub(crate) struct Asked {
    pub(crate) pod: Arc<Pod>,
    is_waiting: bool,
    /// The pod may hold a place for it, which is free when this is dropped.
    has_place: bool,
}

impl Asked {
    fn ends_waiting(&mut self, state: &mut State) {
        if self.is_waiting {
            self.is_waiting = false;
            state.waiting -= 1;
        }
        state.sign_of_life = Instant::now();
        state.misses = 0;
    }

    /// The request is on its way to the pod.
    pub(crate) fn sent(&mut self) {
        self.has_place = true;
    }

    /// The pod never saw the request.
    pub(crate) fn was_not_sent(&mut self) {
        self.has_place = false;
    }

    /// The pod refused the request for a reason that lies in the request.
    pub(crate) fn refused(&mut self) {
        self.has_place = false;
        self.answered();
    }

    /// The pod answered.
    pub(crate) fn answered(&mut self) {
        let pod = Arc::clone(&self.pod);
        let mut state = pod.lock();
        self.ends_waiting(&mut state);
        state.health.answered();
    }

    /// The pod answered that it has no room for `time`.
    pub(crate) fn is_full(&mut self, time: Duration) {
        self.has_place = false;
        let pod = Arc::clone(&self.pod);
        let mut state = pod.lock();
        self.ends_waiting(&mut state);
        state.health.answered();
        state.health.is_full(time, Instant::now().into_std());
    }

    /// The pod failed.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.has_place = false;
        let pod = Arc::clone(&self.pod);
        self.ends_waiting(&mut pod.lock());
        pod.failed(failure);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.pod.lock();
        state.in_flight -= 1;
        if self.is_waiting {
            state.waiting -= 1;
            state.health.left();
        }
        if self.has_place {
            state.health.has_room();
        }
    }
}

/// All pods of the topology.
pub(crate) struct Pods {
    shared: Shared,
    known: Mutex<KnownPods>,
}

#[derive(Default)]
struct KnownPods {
    of: Option<Arc<Topology>>,
    pods: HashMap<SocketAddr, Arc<Pod>>,
}

impl Pods {
    /// None yet. Those that leave the rotation tell `retries` how many requests they leave behind.
    pub(crate) fn new(metrics: Metrics, retries: Arc<Mutex<Budget>>) -> Self {
        Self {
            shared: Shared { metrics, retries },
            known: Mutex::default(),
        }
    }

    /// The pods of a topology. Those that are new to it have no history; those that left it are forgotten with theirs.
    pub(crate) fn of(&self, topology: &Arc<Topology>) -> HashMap<SocketAddr, Arc<Pod>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let KnownPods { of: seen, pods } = &mut *known;
        if !seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, topology))
        {
            let mut before = std::mem::take(pods);
            for (address, uid) in topology.all_pods() {
                let pod = before
                    .remove(&address)
                    .filter(|pod| pod.uid == uid)
                    .unwrap_or_else(|| Arc::new(Pod::new(address, uid, &self.shared)));
                pods.insert(address, pod);
            }
            *seen = Some(Arc::clone(topology));
        }
        pods.clone()
    }

    /// Shows how many pods of each tier are out of rotation.
    pub(crate) fn show(&self, topology: &Arc<Topology>) {
        let pods = self.of(topology);
        for tier in Tier::ALL {
            let out = topology
                .pods(tier)
                .filter_map(|address| pods.get(&address))
                .filter(|pod| pod.contestant(tier).standing == Standing::Out)
                .count();
            let out = out_of_rotation(topology.pods(tier).len(), out);
            self.shared.metrics.out_of_rotation(tier, out);
        }
    }
}
