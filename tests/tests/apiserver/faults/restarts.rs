//! Many deployments, a machine without time to spare, and an operator that starts again and again.

use super::many;
use crate::process::Operator;
use crate::with_api;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::time::Instant;
use zimage_tests::relay::Relay;

const DEPLOYMENTS: usize = 100;
/// Time for all that is made at first: some thousand objects.
const FIRST: Duration = Duration::from_secs(300);
/// A deployment is followed at the latest so long after the last obstacle.
const SOON: Duration = Duration::from_secs(10);

/// Keeps two cores busy until it is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It panics nowhere.
            let _ended = thread.join();
        }
    }
}

#[expect(clippy::print_stdout, reason = "the measured figure")]
async fn follows_all_after_each_of(restarts: usize) -> Result<()> {
    with_api(async |client, namespace| {
        many(&client, &namespace, DEPLOYMENTS).await?;
        let folder = tempfile::tempdir()?;
        let relay = Relay::start(&client, &namespace, "operator").await?;
        let start = || Operator::start(&relay, &namespace, "operator", folder.path());
        let first = start()?;
        first.follows(DEPLOYMENTS, FIRST).await?;
        first.stop()?;

        let _busy = Busy::start();
        let mut slowest = Duration::ZERO;
        for _ in 0..restarts {
            let begun = Instant::now();
            let operator = start()?;
            operator.follows(DEPLOYMENTS, SOON).await?;
            slowest = slowest.max(begun.elapsed());
            operator.stop()?;
        }
        println!(
            "{restarts} restarts with {DEPLOYMENTS} deployments: all followed within {slowest:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_deployment_is_followed_soon_after_each_of_three_restarts() -> Result<()> {
    follows_all_after_each_of(3).await
}

mod minutes {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_deployment_is_followed_soon_after_each_of_thirty_restarts() -> super::Result<()>
    {
        super::follows_all_after_each_of(30).await
    }
}
