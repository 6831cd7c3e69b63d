//! Mixed traffic over a gateway and servers, or straight at one server, for as long as it is told to: does memory grow, do
//! file descriptors leak, is a request lost?
//!
//! It starts the programs that lie beside it, so it runs on any machine that has them: `zimage-soak --help`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a report for people")]

use anyhow::{Result, ensure};
use clap::Parser;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use zimage_crds::Tier;
use zimage_tests::process::Process;
use zimage_tests::slope::Slope;
use zimage_tests::stack::{Served, Setup, Stack, make_model, start_server};
use zimage_tests::traffic::{Answer, Client, Kind, quantile, tally};

const MIB: f64 = 1024.0 * 1024.0;
/// Growth of memory that is a leak: in MiB an hour, and at least so many in all.
const MEMORY: (f64, f64) = (1.0, 1.0);
/// The same of file descriptors.
const DESCRIPTORS: (f64, f64) = (4.0, 2.0);

/// Mixed traffic, of which a tenth is aborted and a twentieth malformed.
#[derive(Parser)]
struct Args {
    /// How long, such as 90s, 8m or 1h.
    #[arg(value_parser = duration)]
    duration: Duration,
    /// One server without a gateway, and so without Kubernetes' form of configuration.
    #[arg(long)]
    straight: bool,
    /// Clients that each send one request after the other.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Servers of the primary tier; the fallback has one.
    #[arg(long, default_value_t = 2)]
    servers: usize,
    /// Size of the images.
    #[arg(long, default_value = "64x64")]
    size: String,
    /// Seconds that a request may take.
    #[arg(long, default_value_t = 60)]
    timeout_seconds: u64,
    /// Arguments of the servers, such as --device=cuda --model=DIR. Without any: a tiny model on the CPU.
    #[arg(last = true)]
    server: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(['s', 'm', 'h']).len());
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let number: u64 = number.parse().unwrap_or_default();
    if number * seconds == 0 {
        return Err("a time: 90s, 8m or 1h".to_owned());
    }
    Ok(Duration::from_secs(number * seconds))
}

/// What runs under the traffic.
enum Service {
    Stack(Box<Stack>),
    Straight {
        server: Box<Served>,
        _folder: TempDir,
    },
}

impl Service {
    async fn start(args: &Args) -> Result<Self> {
        if args.straight {
            let folder = tempfile::tempdir()?;
            let mut arguments = args.server.clone();
            if arguments.is_empty() {
                let model = make_model(folder.path())?;
                arguments = vec![
                    "--device=cpu".to_owned(),
                    format!("--model={}", model.display()),
                ];
            }
            let server = start_server("server", Tier::Primary, &arguments, None, folder.path());
            let server = Box::new(server.await?);
            return Ok(Self::Straight {
                server,
                _folder: folder,
            });
        }
        let mut tiers = vec![Tier::Primary; args.servers];
        tiers.push(Tier::Fallback);
        let setup = Setup {
            tiers,
            server: args.server.clone(),
            ..Setup::default()
        };
        Ok(Self::Stack(Box::new(Stack::start(&setup).await?)))
    }

    fn target(&self) -> SocketAddr {
        match self {
            Self::Stack(stack) => stack.gateway.api,
            Self::Straight { server, .. } => server.api,
        }
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        match self {
            Self::Stack(stack) => {
                let servers = stack.servers.iter_mut().map(|(_, server)| server);
                servers
                    .chain([&mut stack.gateway])
                    .map(|served| &mut served.process)
                    .collect()
            }
            Self::Straight { server, .. } => vec![&mut server.process],
        }
    }
}

/// The figures of one process over time.
#[derive(Default)]
struct Watched {
    name: String,
    memory: Vec<(Duration, f64)>,
    descriptors: Vec<(Duration, f64)>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut service = Service::start(&args).await?;
    let target = service.target();
    println!(
        "{:?} of traffic at {target}, {} clients",
        args.duration, args.clients
    );

    let begun = Instant::now();
    let number = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        let client = Client::new(
            target,
            &args.size,
            Duration::from_secs(args.timeout_seconds),
        )?;
        let (number, end) = (number.clone(), begun + args.duration);
        clients.spawn(async move {
            let mut answers = Vec::new();
            while Instant::now() < end {
                let number = number.fetch_add(1, Ordering::Relaxed);
                answers.push(client.send(Kind::of(number), number).await);
            }
            answers
        });
    }
    let watched = watch(&mut service, begun, args.duration).await?;
    let answers: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let sound = report(&answers, &watched, args.duration);
    for process in service.processes() {
        let ended = process.ended()?;
        ensure!(
            ended.is_none(),
            "{} ended: {}",
            process.name(),
            process.told()
        );
    }
    ensure!(sound, "the service is not sound: see above");
    Ok(())
}

/// Samples the processes until the end. The first quarter is not looked at: caches fill, and pools.
async fn watch(service: &mut Service, begun: Instant, duration: Duration) -> Result<Vec<Watched>> {
    let interval = (duration / 720).clamp(Duration::from_millis(250), Duration::from_secs(10));
    let mut watched: Vec<Watched> = Vec::new();
    while begun.elapsed() < duration {
        sleep(interval).await;
        let time = begun.elapsed();
        for (at, process) in service.processes().into_iter().enumerate() {
            if let Some(status) = process.ended()? {
                anyhow::bail!(
                    "{} ended with {status} after {time:?}: {}",
                    process.name(),
                    process.told()
                );
            }
            if watched.len() == at {
                watched.push(Watched {
                    name: process.name().to_owned(),
                    ..Watched::default()
                });
            }
            if time < duration / 4 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let (memory, descriptors) = (
                process.resident()? as f64 / MIB,
                process.descriptors()? as f64,
            );
            watched[at].memory.push((time, memory));
            watched[at].descriptors.push((time, descriptors));
        }
    }
    Ok(watched)
}

/// Prints what was seen; whether it is what a sound service shows.
fn report(answers: &[Answer], watched: &[Watched], duration: Duration) -> bool {
    println!("\n{} requests in {duration:?}", answers.len());
    for ((kind, status), count) in tally(answers) {
        println!(
            "{count:>8}  {kind:?} {}",
            if status == 0 {
                "-".to_owned()
            } else {
                status.to_string()
            }
        );
    }
    for kind in [Kind::Text, Kind::Image, Kind::Models] {
        let times: Vec<_> = answers
            .iter()
            .filter(|answer| answer.kind == kind && answer.status == Some(200))
            .map(|answer| answer.took)
            .collect();
        let (middle, slow) = (quantile(&times, 0.5), quantile(&times, 0.99));
        println!("{kind:?}: p50 {middle:.3?}, p99 {slow:.3?}");
    }
    let mut sound = true;
    println!(
        "\n{:<14} {:>10} {:>22} {:>8} {:>18}",
        "process", "MiB", "MiB an hour", "fds", "fds an hour"
    );
    for process in watched {
        let (Some(memory), Some(descriptors)) =
            (Slope::of(&process.memory), Slope::of(&process.descriptors))
        else {
            println!("{:<14} too few samples", process.name);
            sound = false;
            continue;
        };
        let last = |samples: &[(Duration, f64)]| samples.last().map_or(0.0, |sample| sample.1);
        println!(
            "{:<14} {:>10.1} {:>12.2} ± {:>7.2} {:>8} {:>10.1} ± {:>5.1}",
            process.name,
            last(&process.memory),
            memory.per_hour,
            memory.error,
            last(&process.descriptors),
            descriptors.per_hour,
            descriptors.error
        );
        if memory.exceeds(MEMORY.0, MEMORY.1) {
            println!(
                "FAILED: {} grows by more than {} MiB an hour",
                process.name, MEMORY.0
            );
            sound = false;
        }
        if descriptors.exceeds(DESCRIPTORS.0, DESCRIPTORS.1) {
            println!("FAILED: {} opens more and more files", process.name);
            sound = false;
        }
    }
    let unexpected: Vec<_> = answers
        .iter()
        .filter(|answer| answer.unexpected())
        .collect();
    for answer in unexpected.iter().take(10) {
        println!("FAILED: {answer:?}");
    }
    println!("{} unexpected answers", unexpected.len());
    sound && unexpected.is_empty()
}
