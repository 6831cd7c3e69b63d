//! Waiting for a state of the cluster, always with a deadline.

use anyhow::{Result, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const INTERVAL: Duration = Duration::from_millis(100);

/// Asks `probe` until it answers `Some`. Its errors count as "not yet" and are told when the time is over.
///
/// # Errors
/// When `limit` has passed; the message says what was awaited and the last error.
pub async fn until<T, F>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let last = match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}{last}");
        }
        sleep(INTERVAL).await;
    }
}
