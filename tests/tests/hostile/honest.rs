//! Honest clients and probes while harm is done.

use anyhow::{Context, Result, anyhow, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;
use zimage_tests::stack::Served;
use zimage_tests::traffic::{Answer, Client, Kind, quantile, status, tally};

const CLIENTS: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(60);
/// What a client that is told to come again waits.
const AGAIN: Duration = Duration::from_secs(1);
/// How late any probe may be: a burst of connections fills the kernel's queue, and a SYN that it drops comes again after a
/// second.
const LATEST: Duration = Duration::from_secs(2);
/// How late a probe may be because of the harm.
const LATE: Duration = Duration::from_millis(100);
/// What a busy machine takes from any process now and then.
const SCHEDULING: Duration = Duration::from_millis(100);
const CALM: Duration = Duration::from_secs(3);
/// Between two probes, and how long one may take.
const INTERVAL: Duration = Duration::from_millis(100);
const PROBE: Duration = Duration::from_secs(5);
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
    probes: Probed,
}

/// Honest traffic at `front`, first alone and then while `harm` is done.
pub(crate) async fn during<T>(
    front: &Served,
    harm: impl Future<Output = Result<T>>,
) -> Result<(T, Seen)> {
    let (target, probed) = (front.api, Probed::paths(front));
    let calm = Probes::start(probed);
    sleep(CALM).await;
    let calm: Option<Vec<_>> = calm.end()?.took.into_iter().collect();
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
                answers.push(patient(&client, number).await);
                if weak.strong_count() == 0 {
                    break;
                }
            }
            answers
        });
    }
    let probes = Probes::start(probed);
    let outcome = harm.await;
    let probes = probes.end()?;
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

/// A client that comes again when it is told to: the service may be full, and says so.
async fn patient(client: &Client, number: usize) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = client.send(Kind::Text, number).await;
        if answer.status != Some(429) || begun.elapsed() > TIMEOUT {
            return answer;
        }
        sleep(AGAIN).await;
    }
}

/// Probes of a front and a look at its figures by turns, each 100 ms until they are ended, as a kubelet makes them: each on
/// a connection of its own. They have a thread of their own, so that the harm in this process does not slow them.
struct Probes {
    end: Sender<()>,
    thread: JoinHandle<Probed>,
}

/// What probes saw.
#[derive(Default)]
struct Probed {
    /// How long each took. None: no 200 within its time.
    took: Vec<Option<Duration>>,
    /// How late the thread was when it had slept: what a busy machine takes from any process.
    late: Vec<Duration>,
}

/// Where something is looked for.
type Path = (SocketAddr, &'static str);

impl Probed {
    fn paths(front: &Served) -> [Path; 3] {
        [
            (front.api, "/healthz"),
            (front.api, "/readyz"),
            (front.metrics, "/metrics"),
        ]
    }
}

impl Probes {
    fn start(paths: [Path; 3]) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let mut probed = Probed::default();
            for path in paths.into_iter().cycle() {
                let begun = Instant::now();
                let sound = probe(path).is_ok_and(|status| status == Some(200));
                probed.took.push(sound.then(|| begun.elapsed()));
                let slept = Instant::now();
                if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return probed;
                }
                probed.late.push(slept.elapsed().saturating_sub(INTERVAL));
            }
            probed
        });
        Self { end, thread }
    }

    fn end(self) -> Result<Probed> {
        drop(self.end);
        self.thread
            .join()
            .map_err(|_| anyhow!("the probes' thread failed"))
    }
}

fn probe((target, path): Path) -> Result<Option<u16>> {
    let mut connection = TcpStream::connect_timeout(&target, PROBE)?;
    connection.set_read_timeout(Some(PROBE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: fox\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(status(&answer))
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
        let took = &self.probes.took;
        let failed = took.iter().filter(|probe| probe.is_none()).count();
        let probes: Vec<_> = took.iter().flatten().copied().collect();
        let (slow, worst) = (quantile(&probes, 0.99), quantile(&probes, 1.0));
        let (calm, late) = (quantile(&self.calm, 1.0), quantile(&self.probes.late, 0.99));
        println!(
            "honest requests {:?}; probes p99 {slow:?}, worst {worst:?}, in calm at most {calm:?}, by a thread that was up to {late:?} late; {failed} of {} failed",
            tally(&self.answers),
            took.len()
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
        assert_eq!(failed, 0, "probes failed");
        // A probe changes hands between the threads of both sides.
        let bound = LATE + SCHEDULING + (calm + late) * 4;
        assert!(
            slow <= bound,
            "the slowest probes took {slow:?}, more than {bound:?}"
        );
        let latest = quantile(&self.probes.late, 1.0);
        let bound = LATEST + (calm + latest) * 4;
        assert!(
            worst <= bound,
            "a probe took {worst:?}, more than {bound:?}"
        );
    }
}
