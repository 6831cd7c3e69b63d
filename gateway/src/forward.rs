//! From a complete request to an answer: which pod, how often, how long.
//!
//! ```text
//! request ─▶ poison? ─▶ order of pods ─▶ a connection (hedged) ─▶ one attempt ─▶ answer, relayed
//!                            ▲                                        │
//!                            └────── declined or lost, within bounds ─┘
//! ```
//! What an attempt's end means, for the pod and for the request:
//!
//! | the pod | health | the request |
//! |---|---|---|
//! | takes no connection | failed (`connect`) | was not sent: another pod, at once |
//! | had closed the idle connection | | was not sent: the same pod, on a new connection |
//! | machine acknowledges nothing of a small request | failed (`connect`) | did not arrive: another pod |
//! | 429 | full for its `Retry-After`, 60 s at the most, or until a place is free | another pod, on the head alone |
//! | 503 | failed (`unavailable`) | another pod, on the head alone |
//! | 429 or 503 that says `x-zimage-refused: request` | answered | another pod, on the head alone |
//! | 503 that says `x-zimage-refused: device-lost` | failed (`device`) | another pod; it counts as lost |
//! | 502, or an end of the connection, or no HTTP, or 1xx as the last word | failed (`reset`) | another pod; it counts as lost when its body was sent and no answer came |
//! | process gives no sign of life, twice | failed (`silent`) | another pod, if one is in rotation; lost |
//! | anything else | answered | that is the answer |
//!
//! A request reaches at most three pods and its body at most two; none of them twice. A second body needs the retry
//! budget when the first was not declined with 429; refusals for what lies in the request have a budget of their own, so
//! that nobody who asks for too much takes the retries of those whose pod dies. A full pod is asked again before its time
//! when a request of this gateway left it, and by one request a second: the clients that filled it may have gone. A body
//! that cost two pods is refused ([`crate::poison`]). A pod that computes is waited for as long as the request has time:
//! what a request costs spans four orders of magnitude and is not known here. Whether a device still computes is the server's own watch, which ends the process.

mod attempt;
mod hedge;
mod relay;

use crate::balance::Balancer;
use crate::budget::Budget;
use crate::envelope::Answer;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::poison::{Admission, Digest, Ledger};
use crate::record::Record;
use crate::retry_after::jittered;
use crate::route::{Contestant, Journey, MOST_BODIES};
use crate::topology::{Topology, UnknownModel};
use crate::upstream::payload::Outgoing;
use crate::upstream::{Class, SMALL, is_alive};
use crate::watch::Known;
use attempt::Outcome;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tower::BoxError;
use zimage_crds::{PerTier, Tier};

/// When to come again after an error that passes soon.
const SOON: Duration = Duration::from_secs(1);
/// How often pods are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Sends requests to pods. Shared by all connections.
pub struct Forward {
    known: Known,
    metrics: Metrics,
    pods: Pods,
    balancer: Mutex<Balancer>,
    /// Requests that each tier was asked for.
    turns: PerTier<AtomicUsize>,
    /// For requests whose pod failed.
    retries: Arc<Mutex<Budget>>,
    /// For requests that a pod refuses for what they ask for: another tier may hold more, or be faster.
    refusals: Mutex<Budget>,
    ledger: Mutex<Ledger>,
    digests: RandomState,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Forward {
    /// To the pods of `known`. [`Forward::tend`] must run beside it.
    pub fn new(known: Known, metrics: Metrics) -> Self {
        let retries = Arc::new(Mutex::new(Budget::new(now())));
        Self {
            known,
            pods: Pods::new(metrics.clone(), Arc::clone(&retries)),
            metrics,
            balancer: Mutex::default(),
            turns: PerTier::default(),
            retries,
            refusals: Mutex::new(Budget::new(now())),
            ledger: Mutex::default(),
            digests: RandomState::new(),
        }
    }

    /// Looks after the pods, for ever: asks those that are quiet, suspect or out of rotation for a sign of life, one probe
    /// a pod at a time, and closes connections that are of no use.
    pub async fn tend(&self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = look.tick() => {
                    let Some(topology) = self.topology() else { continue };
                    for pod in self.pods.of(&topology).into_values() {
                        pod.idle.prune();
                        if pod.begin_probe() {
                            probes.push(async move { pod.probed(is_alive(pod.address).await) });
                        }
                    }
                    self.pods.show(&topology);
                }
                Some(()) = probes.next() => {}
            }
        }
    }

    /// Asks pod after pod until one answers. Dropping the future, or the answer's body, closes the connection to the pod,
    /// which then cancels its work.
    ///
    /// # Errors
    /// What to say when no pod answered.
    pub(crate) async fn request(
        &self,
        head: &Parts,
        body: Bytes,
        model: Option<&str>,
        record: &mut Record,
    ) -> Result<Response<BoxBody<Bytes, BoxError>>, Answer> {
        let topology = self.topology().ok_or_else(unknown)?;
        let tiers = topology
            .tiers_with(model)
            .map_err(|error| not_found(&error))?;
        let first = match tiers.as_slice() {
            [only] => *only,
            _ => lock(&self.balancer).next(topology.weights),
        };
        lock(&self.retries).request(now());
        lock(&self.refusals).request(now());
        let digest = self.digest(&body);
        let most_bodies = match lock(&self.ledger).admit(digest, now()) {
            Admission::Usual => MOST_BODIES,
            Admission::Trial => 1,
            Admission::Refused => {
                self.metrics.poison();
                tracing::warn!(
                    request_id = record.request_id,
                    "refused: it cost two pods before"
                );
                return Err(poison());
            }
        };
        let class = if body.len() > SMALL {
            Class::Large
        } else {
            Class::Small
        };
        let outgoing = Outgoing::new(head, body, &record.request_id, record.client);
        let mut journey = Journey::new(tiers, first, most_bodies);
        let mut is_fresh = class == Class::Large;
        while journey.goes_on() {
            let Some(mut reached) = self.connect(&mut journey, class, is_fresh).await else {
                break;
            };
            let (tier, pod) = (reached.tier, reached.asked.pod.address);
            (record.tier, record.pod) = (Some(tier), Some(pod));
            let may_leave = || self.has_another(&journey, pod);
            let outcome =
                attempt::run(&outgoing, &mut reached, journey.was_declined(), may_leave).await;
            let reason = match outcome {
                Outcome::Answered(answer, gate) => {
                    record.attempts += 1;
                    record.status = answer.status().as_u16();
                    lock(&self.ledger).answered(digest);
                    return Ok(relay::relay(answer, gate, reached, self.metrics.clone()));
                }
                Outcome::Stale => {
                    reached.asked.pod.idle.clear();
                    self.metrics.passed_on(tier, "stale");
                    continue;
                }
                Outcome::Unreached => {
                    is_fresh = true;
                    journey.declined(pod, false);
                    self.metrics.passed_on(tier, "unreached");
                    continue;
                }
                Outcome::Full(time, body_sent) => {
                    journey.declined(pod, body_sent);
                    journey.is_full(time);
                    "429"
                }
                Outcome::Refused(body_sent) => {
                    journey.declined(pod, body_sent);
                    "refused"
                }
                Outcome::Declined(reason, body_sent) => {
                    journey.declined(pod, body_sent);
                    reason
                }
                Outcome::Lost(reason) => {
                    journey.declined(pod, true);
                    journey.lost();
                    lock(&self.ledger).lost(digest, pod, now());
                    reason
                }
            };
            record.attempts += 1;
            self.metrics.passed_on(tier, reason);
            tracing::info!(%pod, %tier, reason, request_id = record.request_id, "passed on");
            if !self.may_retry(&journey, reason) {
                break;
            }
        }
        (record.tier, record.pod) = (None, None);
        Err(self.refusal(&journey, record))
    }

    /// What to say to a request, whatever its body, while it is known of every pod that it has no room.
    pub(crate) fn is_full(&self) -> Option<Answer> {
        let topology = self.topology()?;
        let mut journey = Journey::new(Tier::ALL.to_vec(), Tier::Primary, MOST_BODIES);
        let open = journey.next(&self.contestants(&topology), |_| 0);
        journey.full_for().filter(|_| open.is_empty()).map(full)
    }

    /// Whether another pod may be asked after one that did not say 429: that takes a retry of the budget.
    fn may_retry(&self, journey: &Journey, reason: &'static str) -> bool {
        if reason == "429" || !journey.goes_on() {
            return true;
        }
        let budget = match reason {
            "refused" => &self.refusals,
            _ => &*self.retries,
        };
        let is_left = lock(budget).retry(now());
        self.metrics.retried(is_left);
        is_left
    }

    fn refusal(&self, journey: &Journey, record: &Record) -> Answer {
        if journey.losses() > 0 && !journey.goes_on() {
            self.metrics.poison();
            tracing::warn!(
                request_id = record.request_id,
                "the request cost as many pods as it may; it is not tried again"
            );
            return lost();
        }
        if let Some(time) = journey.full_for() {
            return full(time);
        }
        unavailable("no pod could take the request")
    }

    /// Whether a pod in rotation, other than the one that is asked now, could take the request next.
    fn has_another(&self, journey: &Journey, asked: std::net::SocketAddr) -> bool {
        let mut after = journey.clone();
        after.declined(asked, true);
        let Some(topology) = self.topology() else {
            return false;
        };
        after.goes_on() && {
            let in_rotation: Vec<_> = self
                .contestants(&topology)
                .into_iter()
                .filter(|pod| pod.standing == crate::health::Standing::In)
                .collect();
            !after.next(&in_rotation, |_| 0).is_empty()
        }
    }

    fn topology(&self) -> Option<Arc<Topology>> {
        self.known.borrow().clone()
    }

    fn contestants(&self, topology: &Arc<Topology>) -> Vec<Contestant> {
        let pods = self.pods.of(topology);
        let of_tier = |tier: Tier| topology.pods(tier).map(move |address| (tier, address));
        Tier::ALL
            .into_iter()
            .flat_map(of_tier)
            .filter_map(|(tier, address)| Some(pods.get(&address)?.contestant(tier)))
            .collect()
    }

    /// A connection to the best pod that takes one. Pods come and go during a request: each time they are looked at anew.
    async fn connect(
        &self,
        journey: &mut Journey,
        class: Class,
        is_fresh: bool,
    ) -> Option<hedge::Reached> {
        let topology = self.topology()?;
        let pods = self.pods.of(&topology);
        let turn = |tier| self.turns[tier].load(Ordering::Relaxed);
        let order = journey.next(&self.contestants(&topology), turn);
        let order: Vec<_> = order
            .into_iter()
            .filter_map(|candidate| Some((candidate.tier, Arc::clone(pods.get(&candidate.pod)?))))
            .collect();
        let reached = hedge::connect(order, class, is_fresh, &self.metrics).await?;
        self.turns[reached.tier].fetch_add(1, Ordering::Relaxed);
        Some(reached)
    }

    /// Tells bodies apart: by their length and their ends, so that a large one costs no time.
    fn digest(&self, body: &Bytes) -> Digest {
        let start = &body[..body.len().min(SMALL)];
        let end = &body[body.len().saturating_sub(SMALL)..];
        self.digests.hash_one((body.len(), start, end))
    }
}

fn unknown() -> Answer {
    unavailable("the gateway does not know its ZImageDeployment yet")
}

fn not_found(error: &UnknownModel) -> Answer {
    Answer::error(StatusCode::NOT_FOUND, "model_not_found", &error.to_string())
}

fn unavailable(message: &str) -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        .retry_after(jittered(SOON))
}

fn full(time: Duration) -> Answer {
    let message = "every pod's queue is full";
    Answer::error(StatusCode::TOO_MANY_REQUESTS, "queue_full", message).retry_after(jittered(time))
}

fn lost() -> Answer {
    let message =
        "the pods that worked on this request were lost; if it comes again soon, it is refused";
    Answer::error(StatusCode::BAD_GATEWAY, "request_lost", message)
}

fn poison() -> Answer {
    let message = "pods were lost while they worked on this request; it is refused for a while";
    Answer::error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "request_refused",
        message,
    )
    .final_word()
}
