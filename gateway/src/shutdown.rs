//! The end: known first, then empty, then gone.

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// How often it is looked whether the last request has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Whether the gateway leaves, and how many requests hold it. Clones share it.
#[derive(Clone, Default)]
pub struct Presence(Arc<State>);

#[derive(Default)]
struct State {
    leaving: AtomicBool,
    requests: AtomicUsize,
}

/// A request that holds the gateway until it is dropped.
pub struct Held(Presence);

impl Presence {
    /// Whether the gateway leaves: it is not ready, and it closes each connection after its request.
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire)
    }

    /// Holds the gateway for a request.
    pub fn hold(&self) -> Held {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        Held(self.clone())
    }

    fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Tells pingora to end once SIGTERM came and no request is left.
pub struct Drain {
    /// Shared with the proxy.
    pub presence: Presence,
    /// Time for which requests are still expected.
    pub lame_duck: Duration,
    /// Time that running requests get after that.
    pub timeout: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        wait_for_signal().await;
        self.leave().await;
        // pingora's own grace is a fixed sleep; everything it would wait for is over.
        ShutdownSignal::FastShutdown
    }
}

impl Drain {
    /// Says that the gateway leaves and returns when no request holds it, or when the time is over.
    async fn leave(&self) {
        self.presence.0.leaving.store(true, Ordering::Release);
        tracing::info!(
            seconds = self.lame_duck.as_secs(),
            "leaving: still serving until that is known"
        );
        sleep(self.lame_duck).await;
        let deadline = Instant::now() + self.timeout;
        while self.presence.requests() > 0 {
            if Instant::now() >= deadline {
                tracing::warn!(
                    requests = self.presence.requests(),
                    "the drain's time is over; these are lost"
                );
                break;
            }
            sleep(LOOK).await;
        }
    }
}

/// SIGTERM or SIGINT. A process that cannot listen for them is ended by their default action.
async fn wait_for_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen for signals; this process ends without a drain");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::process::Command;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn drain(lame_duck: Duration, timeout: Duration) -> Drain {
        Drain {
            presence: Presence::default(),
            lame_duck,
            timeout,
        }
    }

    #[tokio::test]
    async fn the_end_waits_for_the_last_request() {
        let drain = drain(Duration::ZERO, PATIENCE);
        let held = [drain.presence.hold(), drain.presence.hold()];
        let mut left = pin!(drain.leave());
        let soon = timeout(LOOK * 3, &mut left).await;
        assert!(soon.is_err() && drain.presence.is_leaving());
        drop(held);
        timeout(PATIENCE, left).await.unwrap();
    }

    #[tokio::test]
    async fn without_requests_the_gateway_still_serves_until_it_is_known_that_it_leaves() {
        let drain = drain(Duration::from_millis(200), PATIENCE);
        let began = Instant::now();
        timeout(PATIENCE, drain.leave()).await.unwrap();
        assert!(began.elapsed() >= drain.lame_duck);
    }

    #[tokio::test]
    async fn a_request_without_end_is_not_waited_for_longer_than_the_drain() {
        let drain = drain(Duration::ZERO, Duration::from_millis(200));
        let _held = drain.presence.hold();
        let began = Instant::now();
        timeout(PATIENCE, drain.leave()).await.unwrap();
        assert!(began.elapsed() >= drain.timeout);
    }

    #[tokio::test]
    async fn sigterm_begins_it() {
        // From here on the signal no longer ends this process.
        let _caught = signal(SignalKind::terminate()).unwrap();
        let drain = drain(Duration::ZERO, PATIENCE);
        let mut ended = pin!(drain.recv());
        assert!(timeout(LOOK, &mut ended).await.is_err());
        assert!(!drain.presence.is_leaving());
        let kill = format!("kill -TERM {}", std::process::id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
        let how = timeout(PATIENCE, ended).await.unwrap();
        assert!(matches!(how, ShutdownSignal::FastShutdown));
    }
}
