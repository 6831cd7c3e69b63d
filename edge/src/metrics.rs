//! What is refused is counted and logged, and no flood of it floods the log.

use crate::refusal::Refusal;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a second about refused requests.
const MOST_LINES: u32 = 10;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    reason: &'static str,
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfListener {
    listener: &'static str,
}

/// The edge's figures, as one of the process's listeners counts them. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    listener: &'static str,
    /// Of this listener, one of `all_connections`.
    pub(crate) connections: Gauge,
    all_connections: Family<OfListener, Gauge>,
    pub(crate) buffered: Gauge,
    rejected: Family<Rejection, Counter>,
    log: Arc<Mutex<Throttle>>,
}

impl Default for Metrics {
    /// Those of the listener `api`.
    fn default() -> Self {
        let all_connections = Family::default();
        Self {
            listener: "api",
            connections: Gauge::default(),
            all_connections,
            buffered: Gauge::default(),
            rejected: Family::default(),
            log: Arc::default(),
        }
        .of("api")
    }
}

impl Metrics {
    /// The same figures for another listener of the process.
    #[must_use]
    pub fn of(&self, listener: &'static str) -> Self {
        let connections = self.all_connections.get_or_create(&OfListener { listener });
        let connections = connections.clone();
        Self {
            listener,
            connections,
            ..self.clone()
        }
    }

    /// Shows the figures in a registry, which has the program's prefix.
    pub fn register(&self, registry: &mut Registry) {
        self.register_connections(registry);
        registry.register_with_unit(
            "buffered",
            "Memory of bodies that are held",
            Unit::Bytes,
            self.buffered.clone(),
        );
    }

    /// The same, for a program that takes no bodies.
    pub fn register_connections(&self, registry: &mut Registry) {
        // A counter is shown before it counts, so that its first increase is seen.
        drop(self.rejected.get_or_create(&self.rejection("overloaded")));
        registry.register(
            "connections",
            "Connections of clients, by the listener",
            self.all_connections.clone(),
        );
        registry.register(
            "rejected",
            "Requests and connections that were not taken, by the reason and the listener",
            self.rejected.clone(),
        );
    }

    /// Counts and logs a refused request.
    pub fn reject(&self, client: Option<IpAddr>, refusal: &Refusal) {
        self.count(client, refusal.reason, Some(refusal));
    }

    /// Counts and logs a connection that ended without an answer.
    pub(crate) fn cut(&self, client: IpAddr, reason: &'static str) {
        self.count(Some(client), reason, None);
    }

    /// No connection could be accepted: files or memory of the kernel have run out.
    pub(crate) fn failed_to_accept(&self, error: &std::io::Error) {
        let rejection = self.rejection("accept_failed");
        self.rejected.get_or_create(&rejection).inc();
        if let Some(left_out) = self.line() {
            let listener = self.listener;
            tracing::warn!(%error, listener, left_out, "no connection could be accepted");
        }
    }

    const fn rejection(&self, reason: &'static str) -> Rejection {
        Rejection {
            reason,
            listener: self.listener,
        }
    }

    fn line(&self) -> Option<u64> {
        let mut throttle = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.line(Instant::now())
    }

    fn count(&self, client: Option<IpAddr>, reason: &'static str, refusal: Option<&Refusal>) {
        self.rejected.get_or_create(&self.rejection(reason)).inc();
        let Some(left_out) = self.line() else { return };
        tracing::info!(
            listener = self.listener,
            client = client.map(|client| client.to_string()),
            reason,
            status = refusal.map(|refusal| refusal.status.as_u16()),
            error = refusal.map(|refusal| refusal.message.as_ref()),
            left_out,
            "not taken"
        );
    }
}

/// Lets so many lines a second through and counts the others. Pure.
#[derive(Default)]
struct Throttle {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Throttle {
    /// How many lines were left out before this one, when it may be written.
    fn line(&mut self, now: Instant) -> Option<u64> {
        let fresh = |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        if !self.since.is_some_and(fresh) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= MOST_LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_ten_lines_a_second_that_say_how_many_were_left_out() {
        let (mut throttle, began) = (Throttle::default(), Instant::now());
        let written = (0..1000).filter_map(|_| throttle.line(began)).count();
        assert_eq!(written, 10);
        assert_eq!(throttle.line(began + Duration::from_secs(1)), Some(990));
        assert_eq!(throttle.line(began + Duration::from_secs(1)), Some(0));
    }
}
