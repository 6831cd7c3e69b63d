//! Which deployments failed to be reconciled how often in a row: for the time of the next attempt, and so that a refusal is
//! logged once and not at each attempt.

use crate::component::DeploymentRef;
use crate::fault::ReconcileError;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Failures in a row; bounded by the number of deployments.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<DeploymentRef, Row>>);

#[derive(Debug, Default)]
struct Row {
    count: u32,
    message: String,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Time before the next attempt.
    pub after: Duration,
    /// The last attempt did not say the same.
    pub is_new: bool,
}

impl Failures {
    /// An attempt failed.
    pub fn failed(&self, deployment: &DeploymentRef, error: &ReconcileError) -> Again {
        let mut rows = self.lock();
        let row = rows.entry(deployment.clone()).or_default();
        let message = error.message();
        row.count = row.count.saturating_add(1);
        let is_new = row.message != message;
        row.message = message;
        Again {
            after: error.cause().pause(row.count),
            is_new,
        }
    }

    /// An attempt succeeded. Whether the one before had failed.
    pub fn succeeded(&self, deployment: &DeploymentRef) -> bool {
        self.lock().remove(deployment).is_some()
    }

    /// Forgets deployments that are gone.
    pub fn retain(&self, exists: impl Fn(&DeploymentRef) -> bool) {
        self.lock().retain(|deployment, _| exists(deployment));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentRef, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_tried_again_ever_more_slowly() {
        let failures = Failures::default();
        let fox = DeploymentRef::new("fox").within("art");
        let late = || ReconcileError::Late(Duration::from_secs(45));
        let first = failures.failed(&fox, &late());
        assert_eq!((first.after.as_secs(), first.is_new), (1, true));
        let second = failures.failed(&fox, &late());
        assert_eq!((second.after.as_secs(), second.is_new), (2, false));
        assert!(failures.failed(&fox, &ReconcileError::Panicked).is_new);
        assert!(failures.succeeded(&fox));
        assert!(!failures.succeeded(&fox));
        assert_eq!(failures.failed(&fox, &late()), first);
    }
}
