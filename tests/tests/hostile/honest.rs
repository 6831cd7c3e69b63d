//! Honest clients and probes while harm is done.

use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;
use zimage_tests::traffic::{Answer, Client, Kind, exchange, quantile, status, tally};

const CLIENTS: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(60);
/// How late a probe may be because of the harm.
const LATE: Duration = Duration::from_millis(100);
/// What a busy machine takes from any process now and then.
const SCHEDULING: Duration = Duration::from_millis(250);
const CALM: Duration = Duration::from_secs(3);
const OPEN_FILES: &str = "20000";

/// Lets this process, and those it starts, have as many connections as the tests make.
pub(crate) fn open_many_files() -> Result<()> {
    let pid = std::process::id().to_string();
    let limit = format!("--nofile={OPEN_FILES}:{OPEN_FILES}");
    let raised = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status()?;
    ensure!(raised.success(), "failed to raise the limit of open files");
    Ok(())
}

/// What honest clients and probes saw.
pub(crate) struct Seen {
    answers: Vec<Answer>,
    calm: Vec<Duration>,
    probes: Vec<Option<Duration>>,
}

/// Honest traffic at `target`, first alone and then while `harm` is done.
pub(crate) async fn during<T>(
    target: SocketAddr,
    harm: impl Future<Output = Result<T>>,
) -> Result<(T, Seen)> {
    let calm = probe_until(target, async { sleep(CALM).await }).await.1;
    let calm: Option<Vec<_>> = calm.into_iter().collect();
    let calm = calm.context("a probe failed before any harm was done")?;

    let running = Arc::new(());
    let weak = Arc::downgrade(&running);
    let mut clients = JoinSet::new();
    for first in 0..CLIENTS {
        let client = Client::new(target, "64x64", TIMEOUT)?;
        let weak = weak.clone();
        clients.spawn(async move {
            let mut answers = Vec::new();
            for number in (first..).step_by(CLIENTS) {
                answers.push(client.send(Kind::Text, number).await);
                if weak.strong_count() == 0 {
                    break;
                }
            }
            answers
        });
    }
    let (outcome, probes) = probe_until(target, harm).await;
    drop(running);
    let answers = clients.join_all().await.into_iter().flatten().collect();
    Ok((
        outcome?,
        Seen {
            answers,
            calm,
            probes,
        },
    ))
}

/// A probe each 100 ms, on a connection of its own as a kubelet makes it, until `end`. None: no 200 within its time.
async fn probe_until<T>(
    target: SocketAddr,
    end: impl Future<Output = T>,
) -> (T, Vec<Option<Duration>>) {
    let running = Arc::new(());
    let weak = Arc::downgrade(&running);
    let probes = async move {
        let mut probes = Vec::new();
        while weak.strong_count() > 0 {
            let begun = Instant::now();
            let request = b"GET /healthz HTTP/1.1\r\nHost: fox\r\nConnection: close\r\n\r\n";
            let answer = exchange(target, request, Duration::from_secs(5)).await;
            let sound = answer.is_ok_and(|answer| status(&answer) == Some(200));
            probes.push(sound.then(|| begun.elapsed()));
            sleep(Duration::from_millis(100)).await;
        }
        probes
    };
    let end = async move {
        let outcome = end.await;
        drop(running);
        outcome
    };
    tokio::join!(end, probes)
}

impl Seen {
    /// Of the honest requests at least 99 % got their image, and the probes were answered in time.
    #[track_caller]
    #[expect(
        clippy::print_stdout,
        reason = "the figures of a test that passes are of interest, too"
    )]
    pub(crate) fn nobody_was_hurt(&self) {
        let lost: Vec<_> = self
            .answers
            .iter()
            .filter(|answer| answer.status != Some(200))
            .collect();
        let late = self.probes.iter().filter(|probe| probe.is_none()).count();
        let probes: Vec<_> = self.probes.iter().flatten().copied().collect();
        let (slow, worst) = (quantile(&probes, 0.99), quantile(&probes, 1.0));
        let calm = quantile(&self.calm, 1.0);
        println!(
            "honest requests {:?}; probes p99 {slow:?}, worst {worst:?}, in calm at most {calm:?}; {late} of {} failed",
            tally(&self.answers),
            self.probes.len()
        );
        assert!(
            self.answers.len() >= 10,
            "{} honest requests",
            self.answers.len()
        );
        assert!(
            lost.len() * 100 <= self.answers.len(),
            "{} of {} honest requests lost, such as {:?}",
            lost.len(),
            self.answers.len(),
            lost.first()
        );
        assert_eq!(late, 0, "probes failed");
        let bound = LATE + SCHEDULING + calm * 3;
        assert!(
            slow <= bound,
            "the slowest probes took {slow:?}, more than {bound:?}"
        );
    }
}
