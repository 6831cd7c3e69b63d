//! Starts the gateway: command line, log, watch, metrics, proxy.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use prometheus_client::registry::Registry;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use zimage_edge::{Bounds, Figures, Stop, Times, serve};
use zimage_gateway::args::{Args, LogFormat};
use zimage_gateway::forward::Forward;
use zimage_gateway::metrics::Metrics;
use zimage_gateway::proxy::Proxy;
use zimage_gateway::shutdown::leave_on_signal;
use zimage_gateway::watch::{Cluster, follow};

/// Connections to /metrics.
const SCRAPERS: usize = 64;

fn main() -> Result<()> {
    let args = Args::parse();
    start_log(args.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(run(args));
    // What the drain's time did not suffice for is not waited for any longer.
    runtime.shutdown_background();
    outcome
}

async fn run(args: Args) -> Result<()> {
    let (metrics, stop) = (Metrics::default(), Stop::default());
    let (learned, known) = watch::channel(None);
    let forward = Arc::new(Forward::new(known.clone(), metrics.clone()));
    let proxy = Arc::new(Proxy::new(
        Arc::clone(&forward),
        known,
        metrics.clone(),
        args.bounds(),
        args.policy(),
        stop.leaving.clone(),
    ));
    let api = listen(args.listen).await?;
    let figures = listen(args.metrics_listen).await?;
    let cluster = Cluster::connect()
        .await
        .map_err(anyhow::Error::from_boxed)
        .context("failed to find a Kubernetes cluster")?;
    tracing::info!(listen = %args.listen, metrics = %args.metrics_listen, connections = args.connections(), buffered_bytes = args.buffered_bytes(), "listening");

    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let scraped = serve(
        figures,
        Arc::new(Figures(registry)),
        bounds(SCRAPERS),
        metrics.edge.of("metrics"),
        Stop::default(),
    );
    let served = serve(
        api,
        proxy,
        bounds(args.connections()),
        metrics.edge.clone(),
        stop.clone(),
    );
    let (namespace, name) = (args.namespace.clone(), args.name.clone());
    tokio::spawn(async move { forward.tend().await });
    tokio::spawn(async move { follow(cluster, &namespace, &name, &metrics, learned).await });
    tokio::spawn(leave_on_signal(
        stop.clone(),
        Duration::from_secs(args.lame_duck_seconds),
    ));
    let over = async {
        stop.closed.cancelled().await;
        tokio::time::sleep(Duration::from_secs(args.drain_timeout_seconds)).await;
    };
    tokio::select! {
        outcome = served => outcome.context("failed to serve requests"),
        outcome = scraped => outcome.context("failed to show the metrics"),
        () = over => {
            tracing::warn!("the drain's time is over; requests that still run are lost");
            Ok(())
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("failed to listen on {address}"))
}

fn bounds(connections: usize) -> Bounds {
    Bounds {
        connections,
        times: Times::default(),
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stdout().is_terminal());
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}
