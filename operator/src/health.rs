//! Whether the operator does its work, for probes and metrics: looks at the work, not at the process.

use crate::changes::Progress;
use crate::leader::Lead;
use crate::observe::Observer;
use crate::watches::Scope;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A loop that stands still for longer does not go on by itself.
const STUCK: Duration = Duration::from_secs(60);
/// A change that waits longer for its reconciliation to begin is late.
const LATE: Duration = Duration::from_secs(60);

/// What the operator does, as far as its probes and metrics tell it.
pub struct Health {
    scopes: Vec<Arc<Scope>>,
    /// Each takes a scope's traffic decisions.
    observers: Vec<Arc<Observer>>,
    lead: Lead,
    /// When the election's loop turned last.
    election: Mutex<Option<Instant>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    /// The health of an operator that follows these scopes.
    pub fn new(scopes: Vec<Arc<Scope>>, lead: Lead) -> Self {
        Self {
            scopes,
            observers: Vec::new(),
            lead,
            election: Mutex::default(),
        }
    }

    /// The same, looking at who takes the traffic decisions too.
    #[must_use]
    pub fn watching(self, observers: Vec<Arc<Observer>>) -> Self {
        Self { observers, ..self }
    }

    /// The election's loop turns: called at least every few seconds from the first call on.
    pub fn election_turns(&self) {
        *self.election() = Some(Instant::now());
    }

    /// Whether the process can go on. Load, an API server that is away and a list that is refused are no reason to end it.
    ///
    /// # Errors
    /// What stands still.
    pub fn alive(&self) -> Result<(), String> {
        let turned = *self.election();
        let election = turned.map_or(Duration::ZERO, |at| at.elapsed());
        let decisions = self.observers.iter().map(|observer| observer.still_for());
        alive(
            [election, decisions.max().unwrap_or_default()],
            &self.work(),
        )
    }

    /// Whether the operator knows all that it is to know and, where it leads, does what is to be done. A standby is ready
    /// when it could lead.
    ///
    /// # Errors
    /// What is missing, one obstacle a line.
    pub fn ready(&self) -> Result<(), String> {
        let obstacles = self.scopes.iter().flat_map(|scope| scope.obstacles());
        ready(obstacles.collect(), &self.work())
    }

    fn work(&self) -> Vec<Progress> {
        let scopes = self.scopes.iter();
        scopes.map(|scope| scope.changes.progress()).collect()
    }

    fn election(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the election and the traffic decisions stand still, and what reconciliations do.
fn alive([election, decisions]: [Duration; 2], work: &[Progress]) -> Result<(), String> {
    for (what, still) in [
        ("the election stands", election),
        ("the traffic decisions stand", decisions),
    ] {
        if still > STUCK {
            return Err(format!("{what} still for {} s", still.as_secs()));
        }
    }
    match work.iter().map(|progress| progress.stuck).max() {
        Some(stuck) if stuck > STUCK => Err(format!(
            "no reconciliation began or ended for {} s although there is something to do",
            stuck.as_secs()
        )),
        _ => Ok(()),
    }
}

fn ready(mut obstacles: Vec<String>, work: &[Progress]) -> Result<(), String> {
    for progress in work.iter().filter(|progress| progress.acts) {
        if progress.followed < progress.known {
            obstacles.push(format!(
                "{} of {} ZImageDeployments are followed",
                progress.followed, progress.known
            ));
        }
        if progress.oldest > LATE {
            obstacles.push(format!(
                "a change waits for its reconciliation for {} s",
                progress.oldest.as_secs()
            ));
        }
    }
    match obstacles.is_empty() {
        true => Ok(()),
        false => Err(obstacles.join("\n")),
    }
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let work = self.work();
        let sum = |of: fn(&Progress) -> usize| work.iter().map(of).sum::<usize>();
        let mut deployments = encoder.encode_descriptor(
            "deployments",
            "ZImageDeployments that exist, and those that this leader has reconciled",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [
            ("known", sum(|progress| progress.known)),
            ("followed", sum(|progress| progress.followed)),
        ] {
            let labels = [("state", state)];
            gauge(
                i64::try_from(count).unwrap_or(i64::MAX),
                deployments.encode_family(&labels)?,
            )?;
        }
        let oldest = work.iter().map(|progress| progress.oldest).max();
        let oldest = oldest.unwrap_or_default().as_secs_f64();
        let encoder_of_oldest = encoder.encode_descriptor(
            "oldest_change",
            "Age of the oldest change whose reconciliation has not begun",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(oldest).encode(encoder_of_oldest)?;
        let remaining = encoder.encode_descriptor(
            "lead_remaining",
            "How long this process may act without another renewal of its lease",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.lead.remaining().as_secs_f64()).encode(remaining)?;
        let mut caches = encoder.encode_descriptor(
            "caches_synced",
            "1 when the kind's list was read to its end",
            None,
            MetricType::Gauge,
        )?;
        for scope in &self.scopes {
            let namespace = scope.namespace.as_deref().unwrap_or_default();
            for (kind, is_whole) in scope.lists() {
                let labels = [("kind", kind), ("namespace", namespace)];
                gauge(i64::from(is_whole), caches.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn gauge(value: i64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    ConstGauge::new(value).encode(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn leader(known: usize, followed: usize) -> Progress {
        Progress {
            known,
            followed,
            oldest: Duration::ZERO,
            stuck: Duration::ZERO,
            acts: true,
        }
    }

    #[test]
    fn a_leader_is_ready_when_it_follows_every_deployment() {
        assert_eq!(ready(vec![], &[leader(67, 67)]), Ok(()));
        let why = ready(vec![], &[leader(67, 52)]).unwrap_err();
        assert_eq!(why, "52 of 67 ZImageDeployments are followed");
    }

    #[test]
    fn a_standby_is_ready_when_it_could_lead() {
        let standby = Progress {
            acts: false,
            ..leader(67, 0)
        };
        assert_eq!(ready(vec![], &[standby]), Ok(()));
        let missing = "Pods in all namespaces: refused".to_owned();
        assert_eq!(ready(vec![missing.clone()], &[standby]), Err(missing));
    }

    #[test]
    fn a_change_that_waits_too_long_is_told_and_ends_no_process() {
        let late = Progress {
            oldest: LATE + Duration::from_secs(1),
            ..leader(2, 2)
        };
        assert!(ready(vec![], &[late]).unwrap_err().contains("for 61 s"));
        assert_eq!(alive([Duration::ZERO; 2], &[late]), Ok(()));
    }

    #[test]
    fn a_loop_that_stands_still_ends_the_process() {
        let stuck = STUCK + Duration::from_secs(1);
        let stands = |still| alive(still, &[]).unwrap_err();
        assert!(stands([stuck, Duration::ZERO]).contains("election"));
        assert!(stands([Duration::ZERO, stuck]).contains("decisions"));
        let work = Progress {
            stuck,
            ..leader(2, 1)
        };
        let why = alive([Duration::ZERO; 2], &[leader(1, 1), work]).unwrap_err();
        assert!(why.contains("no reconciliation"), "{why}");
    }
}
