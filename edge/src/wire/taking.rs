//! How a client takes what is written: nothing for so long at the most, and not too slowly on average.

use super::PollElapsed;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that a client takes in a second, on average over the time that it is waited for.
const SLOWEST: u64 = 8 << 10;

/// What a connection's client took so far.
#[derive(Default)]
pub(super) struct Taking {
    bytes: u64,
    waited: Duration,
    stall: Option<Stall>,
}

/// The client takes nothing at present.
struct Stall {
    since: Instant,
    /// When it is cut.
    end: Pin<Box<Sleep>>,
}

impl Taking {
    /// The client took something. True: it was waited for.
    pub(super) fn took(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let stall = self.stall.take();
        if let Some(stall) = &stall {
            self.waited += stall.since.elapsed();
        }
        stall.is_some()
    }

    /// Whether the client is waited for.
    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_some()
    }

    /// The client takes nothing now, which it may for `most`. True: that is over.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>, most: Duration) -> bool {
        let left = self.left(most);
        let stall = self.stall.get_or_insert_with(|| Stall {
            since: Instant::now(),
            end: Box::pin(sleep(left)),
        });
        stall.end.as_mut().poll_elapsed(cx)
    }

    /// How long the client may take nothing now: `most`, and less when it was slow before.
    fn left(&self, most: Duration) -> Duration {
        let paid = Duration::from_secs(self.bytes / SLOWEST);
        (most + paid).saturating_sub(self.waited).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_a_little_now_and_then_has_less_time_each_time() {
        let most = Duration::from_secs(60);
        let after = |bytes, seconds| {
            let waited = Duration::from_secs(seconds);
            let stall = None;
            Taking {
                bytes,
                waited,
                stall,
            }
            .left(most)
            .as_secs()
        };
        assert_eq!(after(0, 0), 60);
        assert_eq!(after(100, 50), 10);
        assert_eq!(after(200, 100), 0);
        // Who takes 8 KiB/s has all the time, but no more than that for one wait.
        assert_eq!(after(1000 * SLOWEST, 1000), 60);
        assert_eq!(after(1000 * SLOWEST, 0), 60);
    }
}
