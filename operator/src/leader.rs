//! One of the operator's replicas acts; a Lease says which.
//!
//! ```text
//! standby ── the lease is free, or unchanged for 15 s as this process saw it ──▶ leader
//! leader ── renews every 2 s; 10 s without success ──▶ leads no more, and the process ends
//! ```
//!
//! No wall clock decides: what counts is how long this process has seen a lease unchanged, and how long ago it began its
//! last successful renewal, both on the monotonic clock, which runs on while a process is stopped. So a leader has stopped
//! for five seconds before anybody else can begin. Writes to the Lease carry the version that was read: of two that try,
//! one succeeds.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a lease that nobody renews is left to its holder.
const DURATION: Duration = Duration::from_secs(15);
/// How long after its last renewal a leader may act.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time between two renewals.
const RENEWAL: Duration = Duration::from_secs(2);
/// Time between two looks of a standby: the most that a lease which was given back stays free.
const LOOK: Duration = Duration::from_secs(1);
/// How long one call may take: several fit before the deadline.
const CALL: Duration = Duration::from_secs(3);

/// The right to act: asked before each write. Clones are the same right.
#[derive(Clone, Debug)]
pub struct Lead(watch::Sender<Option<Instant>>);

impl Default for Lead {
    /// Nobody's right yet.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Lead {
    /// Whether this process may act now.
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long this process may act without another renewal.
    pub fn remaining(&self) -> Duration {
        let until = *self.0.borrow();
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Returns once this process may not act, or not any more.
    pub async fn lost(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            match until {
                Some(until) if Instant::now() < until => tokio::select! {
                    () = sleep_until(until) => {}
                    // The sender is this value's own.
                    _ = changes.changed() => {}
                },
                _ => return,
            }
        }
    }

    /// A renewal that began at `begun` succeeded.
    pub(crate) fn renewed(&self, begun: Instant) {
        self.0.send_replace(Some(begun + DEADLINE));
    }

    /// Acts no more.
    pub fn end(&self) {
        self.0.send_replace(None);
    }
}

/// Why an attempt at the lease failed. It is made again.
#[derive(Debug, thiserror::Error)]
enum ElectionError {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("no answer within {} s", CALL.as_secs())]
    Late(#[from] tokio::time::error::Elapsed),
}

/// This process's part in the election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The lease as it was read or written last, and since when it has been that.
    seen: Option<(Lease, Instant)>,
    /// Told with every attempt.
    attempt: Box<dyn Fn() + Send + Sync>,
}

impl Election {
    /// Nothing is asked yet. `attempt` is called with every attempt: a sign of life.
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        identity: &str,
        attempt: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            attempt: Box::new(attempt),
        }
    }

    /// Returns once this process leads, which `lead` says from then on. An API server that is away is waited for.
    pub async fn win(&mut self, lead: &Lead) {
        let mut reported = false;
        loop {
            let begun = Instant::now();
            match self.try_to_hold().await {
                Ok(true) => {
                    lead.renewed(begun);
                    return;
                }
                Ok(false) => reported = false,
                Err(error) if !reported => {
                    reported = true;
                    tracing::warn!(lease = self.name, %error, "cannot read or take the lease; trying again");
                }
                Err(error) => tracing::debug!(lease = self.name, %error, "still no lease"),
            }
            sleep(LOOK).await;
        }
    }

    /// Renews the lease. Returns when another holds it, or when it could not be renewed for too long.
    pub async fn keep(&mut self, lead: &Lead) {
        loop {
            let pause = if self.renew(lead).await {
                RENEWAL
            } else {
                LOOK
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = lead.lost() => return,
            }
        }
    }

    /// Whether the lease was renewed.
    async fn renew(&mut self, lead: &Lead) -> bool {
        let begun = Instant::now();
        match self.try_to_hold().await {
            // A lead that ran out meanwhile is not revived: others may have counted on its end.
            Ok(true) if lead.holds() => lead.renewed(begun),
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(lease = self.name, "another replica holds the lease");
                lead.end();
            }
            Err(error) => {
                tracing::warn!(lease = self.name, %error, "failed to renew the lease");
                return false;
            }
        }
        true
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    ///
    /// What was begun with `lead` must have ended.
    pub async fn release(mut self, lead: &Lead) {
        lead.end();
        let Some((lease, _)) = self.seen.take() else {
            return;
        };
        if !is_held_by(&lease, &self.identity) {
            return;
        }
        let free = Lease {
            spec: Some(LeaseSpec {
                holder_identity: None,
                ..lease.spec.unwrap_or_default()
            }),
            ..lease
        };
        let parameters = PostParams::default();
        match timeout(CALL, self.api.replace(&self.name, &parameters, &free)).await {
            Ok(Ok(_)) => {}
            outcome => {
                let error = outcome.map(|answer| answer.map(drop));
                tracing::warn!(
                    lease = self.name,
                    ?error,
                    "failed to give the lease back; it runs out"
                );
            }
        }
    }

    /// Takes or renews the lease where that is allowed. Whether this process holds it then.
    async fn try_to_hold(&mut self) -> Result<bool, ElectionError> {
        (self.attempt)();
        let known = match &self.seen {
            // The holder knows its lease; everybody else looks.
            Some((lease, _)) if is_held_by(lease, &self.identity) => Some(lease.clone()),
            _ => self.look().await?,
        };
        let lease = match known {
            Some(lease) if !self.may_hold(&lease) => return Ok(false),
            Some(lease) => lease,
            None => Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: None,
            },
        };
        let exists = lease.metadata.resource_version.is_some();
        let mine = held(lease, &self.identity);
        let parameters = PostParams::default();
        let written = async {
            match exists {
                true => self.api.replace(&self.name, &parameters, &mine).await,
                false => self.api.create(&parameters, &mine).await,
            }
        };
        match timeout(CALL, written).await? {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            // Somebody else was faster, or a write of ours whose answer was lost. What is there now decides.
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                let lease = self.look().await?;
                let still_ours = lease.is_some_and(|lease| is_held_by(&lease, &self.identity));
                match still_ours || status.is_not_found() {
                    // The next attempt, with what was just read, is due at once.
                    true => Err(kube::Error::Api(status).into()),
                    false => Ok(false),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The lease as it is, remembered with the time since which it is so.
    async fn look(&mut self) -> Result<Option<Lease>, ElectionError> {
        let lease = timeout(CALL, self.api.get_opt(&self.name)).await??;
        self.seen = lease.clone().map(|lease| {
            let since = self.seen.take().and_then(|(before, since)| {
                let same = before.metadata.resource_version == lease.metadata.resource_version
                    && before.metadata.uid == lease.metadata.uid;
                same.then_some(since)
            });
            (lease, since.unwrap_or_else(Instant::now))
        });
        Ok(lease)
    }

    fn may_hold(&self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let is_free = holder.is_none_or(str::is_empty);
        let ran_out = self
            .seen
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= DURATION);
        // A process that had this one's identity is gone: a pod has one at a time.
        is_free || ran_out || is_held_by(lease, &self.identity)
    }
}

fn is_held_by(lease: &Lease, identity: &str) -> bool {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref()) == Some(identity)
}

/// The lease with `identity` as its holder, from now on.
fn held(lease: Lease, identity: &str) -> Lease {
    let continues = is_held_by(&lease, identity);
    let before = lease.spec.unwrap_or_default();
    let now = MicroTime(Timestamp::now());
    let transitions = before.lease_transitions.unwrap_or(0);
    Lease {
        metadata: lease.metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: before
                .acquire_time
                .filter(|_| continues)
                .or(Some(now.clone())),
            lease_transitions: Some(transitions.saturating_add(i32::from(!continues))),
            renew_time: Some(now),
            ..before
        }),
    }
}

#[cfg(test)]
mod tests;
