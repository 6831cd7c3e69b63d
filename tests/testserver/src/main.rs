//! The inference server's HTTP front with an engine whose load a test sets: for tests of what surrounds a server.
//!
//! ```text
//! GET  /control   what the server claims
//! PUT  /control   change some of it: {"gpu_utilization": 0.99, "requests_waiting": 4}
//! ```
//!
//! Faults that a GPU reports end it as they end a server: NVIDIA's management library may be one that plays them.
#![forbid(unsafe_code)]

mod control;
mod load;

use anyhow::{Context, Result};
use axum::middleware::from_fn_with_state;
use clap::{Parser, Subcommand};
use control::Control;
use load::Load;
use prometheus_client::registry::Registry;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use zimage_core::executor::Executor;
use zimage_core::fake::{Call, FakeExecutor};
use zimage_engine::{Engine, EngineMetrics};
use zimage_http::{HttpMetrics, ServeArgs, api, serve};
use zimage_nvml::{FaultWatch, Gpus};

/// The exit code that zimage-server has when its device failed.
const DEVICE_FAILED: u8 = 4;

/// A Z-Image server that computes nothing and reports the load that a test sets.
#[derive(Parser)]
#[command(version, about)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as zimage-server does; the model is not read.
    Serve(Serve),
}

/// zimage-server's flags, so that it can take a server's place in a pod.
#[derive(clap::Args)]
struct Serve {
    #[command(flatten)]
    serve: ServeArgs,
    /// Not read.
    #[arg(long)]
    model: Option<PathBuf>,
    /// With cuda, faults of a GPU are watched for; nothing is computed on one.
    #[arg(long)]
    device: Option<String>,
    /// Not used.
    #[arg(long)]
    precision: Option<String>,
    /// Not used.
    #[arg(long)]
    gpu_cache: Option<PathBuf>,
    /// Address of /control.
    #[arg(long, default_value = "127.0.0.1:9091")]
    control_listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Command::Serve(args) = Program::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stdout().is_terminal())
        .init();
    let control = Control::default();
    let (engine_metrics, http_metrics) = (EngineMetrics::default(), HttpMetrics::default());
    let mut registry = Registry::default();
    engine_metrics.register_all_but_waiting(&mut registry);
    http_metrics.register(&mut registry);
    registry.register_collector(Box::new(Load::new(control.clone(), engine_metrics.clone())));

    let app = args.serve.app(http_metrics);
    let pace = control.clone();
    let executor = FakeExecutor::new(move |call| {
        if let Call::Step(_) = call {
            std::thread::sleep(pace.step());
        }
        while pace.hangs() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
    let executors: Vec<Box<dyn Executor>> = vec![Box::new(executor)];
    let engine = Engine::start(executors, args.serve.engine(), engine_metrics)?;
    app.start_serving(engine.clone());

    let stop = stop_on_signal()?;
    let listener = TcpListener::bind(args.control_listen)
        .await
        .with_context(|| format!("failed to listen on {}", args.control_listen))?;
    let controlled = axum::serve(listener, control::router(control.clone()));
    let api = api(app.clone()).layer(from_fn_with_state(control, control::interfere));
    let serving = serve(
        app,
        api,
        registry,
        args.serve.addresses(),
        args.serve.shutdown(),
        stop.clone(),
    );
    let mut serving = pin!(serving);
    let cause = tokio::select! {
        outcome = &mut serving => return outcome.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        outcome = controlled => return outcome.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        cause = engine.failed() => cause,
        cause = zimage_nvml::fault(Gpus::find(), FaultWatch::default()),
            if args.device.as_deref() == Some("cuda") =>
        {
            engine.fail(&cause);
            cause
        }
    };
    // Whoever waits is told before the process ends.
    stop.cancel();
    serving.await?;
    // Outside a container there is nobody to read it.
    let _unread = std::fs::write("/dev/termination-log", format!("device failed: {cause}"));
    Ok(ExitCode::from(DEVICE_FAILED))
}

fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}
