//! How it stands with one list: whether it was read to its end, and what is in the way.

use kube::runtime::watcher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A watch that is broken for longer makes what it keeps doubtful.
pub(super) const DOUBTFUL: Duration = Duration::from_secs(60);
/// A watch that runs again says nothing until something changes. It runs when it has not failed for longer than an attempt
/// and the pause before it take.
pub(super) const MENDED: Duration = Duration::from_secs(30);

/// How it stands with one list.
#[derive(Debug)]
pub(super) struct List {
    pub(super) kind: String,
    place: String,
    /// Whether the operator does without the kind where the API server does not have it.
    is_optional: bool,
    /// Whether the API server has the kind, as far as it is known.
    pub(super) is_served: Arc<AtomicBool>,
    state: Mutex<ListState>,
}

#[derive(Clone, Debug)]
pub(super) struct ListState {
    whole: bool,
    trouble: Option<Fault>,
    begun: Instant,
}

/// An unbroken row of failures.
#[derive(Clone, Copy, Debug)]
struct Fault {
    trouble: Trouble,
    since: Instant,
    last: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused(u16),
    Missing,
    Unreachable,
}

impl List {
    pub(super) fn new(kind: &str, namespace: Option<&str>, is_optional: bool) -> Self {
        Self {
            kind: kind.to_owned(),
            place: namespace.map_or_else(
                || "all namespaces".to_owned(),
                |name| format!("namespace {name}"),
            ),
            is_optional,
            is_served: Arc::new(AtomicBool::new(true)),
            state: Mutex::new(ListState {
                whole: false,
                trouble: None,
                begun: Instant::now(),
            }),
        }
    }

    fn update(&self, change: impl FnOnce(&mut ListState)) -> ListState {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.clone()
    }

    /// Whether it was read to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.update(|_| {}).whole
    }

    /// Whether nothing of it is waited for: it was read to its end, or the API server does not have the kind.
    pub(super) fn is_settled(&self) -> bool {
        self.is_whole() || !self.is_served.load(Ordering::Relaxed)
    }

    pub(super) fn completed(&self) {
        let mut failed = false;
        self.update(|state| {
            state.whole = true;
            failed = state.trouble.take().is_some();
        });
        self.is_served.store(true, Ordering::Relaxed);
        if failed {
            tracing::info!(kind = self.kind, place = self.place, "listed");
        }
    }

    pub(super) fn changed(&self) {
        self.update(|state| state.trouble = state.trouble.filter(|_| !state.whole));
    }

    /// Logged once: until it is over it is the same trouble.
    pub(super) fn failed(&self, error: &watcher::Error) {
        let (trouble, now) = (Trouble::of(error), Instant::now());
        if self.is_optional && trouble == Trouble::Missing && !self.is_whole() {
            self.is_served.store(false, Ordering::Relaxed);
        }
        let mut is_new = false;
        self.update(|state| {
            let before = state
                .trouble
                .filter(|fault| !state.whole || fault.last.elapsed() < MENDED);
            is_new = before.is_none_or(|fault| fault.trouble != trouble);
            let since = before.map_or(now, |fault| fault.since);
            state.trouble = Some(Fault {
                trouble,
                since,
                last: now,
            });
        });
        match is_new {
            true => {
                tracing::warn!(kind = self.kind, place = self.place, %error, "failed to list or watch; trying again")
            }
            false => tracing::debug!(kind = self.kind, place = self.place, %error, "still failing"),
        }
    }

    pub(super) fn obstacle(&self) -> Option<String> {
        let state = self.update(|_| {});
        let what = format!("{}s in {}", self.kind, self.place);
        let told = |since: Instant, trouble: &str| {
            format!("{what}: {trouble}, for {} s", since.elapsed().as_secs())
        };
        match (state.whole, state.trouble) {
            (true, Some(fault))
                if fault.since.elapsed() >= DOUBTFUL && fault.last.elapsed() < MENDED =>
            {
                Some(told(fault.since, fault.trouble.as_str()))
            }
            (true, _) => None,
            _ if self.is_settled() => None,
            (false, Some(fault)) => Some(told(fault.since, fault.trouble.as_str())),
            (false, None) => Some(told(state.begun, "no whole list yet")),
        }
    }
}

impl Trouble {
    fn of(error: &watcher::Error) -> Self {
        use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
        let code = match error {
            InitialListFailed(kube::Error::Api(status))
            | WatchStartFailed(kube::Error::Api(status))
            | WatchFailed(kube::Error::Api(status))
            | WatchError(status) => status.code,
            _ => return Self::Unreachable,
        };
        match code {
            404 => Self::Missing,
            code => Self::Refused(code),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused(401 | 403) => "refused: the operator's rights are missing",
            Self::Refused(_) => "the API server answers with an error",
            Self::Missing => {
                "unknown to the API server: is the CustomResourceDefinition installed?"
            }
            Self::Unreachable => "the API server cannot be reached, or answers with something else",
        }
    }
}
