//! The end: known first, then empty, then gone.

use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use zimage_edge::Stop;

/// Waits for SIGTERM or SIGINT, says that the gateway leaves, and takes no more requests after the lame duck's time.
pub async fn leave_on_signal(stop: Stop, lame_duck: Duration) {
    signalled().await;
    leave(stop, lame_duck).await;
}

async fn leave(stop: Stop, lame_duck: Duration) {
    stop.leaving.cancel();
    tracing::info!(
        seconds = lame_duck.as_secs(),
        "leaving: still serving until that is known"
    );
    sleep(lame_duck).await;
    tracing::info!("draining: no more requests are taken");
    stop.closed.cancel();
}

/// SIGTERM or SIGINT. A process that cannot listen for them is ended by their default action.
async fn signalled() {
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
    use std::process::Command;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_gateway_still_serves_until_it_is_known_that_it_leaves() {
        let stop = Stop::default();
        let leaving = tokio::spawn(leave(stop.clone(), Duration::from_secs(24 * 3600)));
        timeout(PATIENCE, stop.leaving.cancelled()).await.unwrap();
        assert!(!stop.closed.is_cancelled());
        leaving.abort();
        timeout(PATIENCE, leave(stop.clone(), Duration::ZERO))
            .await
            .unwrap();
        assert!(stop.closed.is_cancelled());
    }

    #[tokio::test]
    async fn sigterm_begins_it() {
        // From here on the signal no longer ends this process.
        let _caught = signal(SignalKind::terminate()).unwrap();
        let stop = Stop::default();
        let leaving = tokio::spawn(leave_on_signal(stop.clone(), Duration::ZERO));
        let kill = format!("kill -TERM {}", std::process::id());
        let closed = async {
            // Until the task listens a signal goes unheard.
            while !stop.closed.is_cancelled() {
                let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
                assert!(sent.success());
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, closed).await.unwrap();
        timeout(PATIENCE, leaving).await.unwrap().unwrap();
    }
}
