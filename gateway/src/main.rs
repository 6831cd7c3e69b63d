//! Starts the gateway: command line, log, watch, metrics, proxy.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;
use prometheus_client::registry::Registry;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use zimage_gateway::args::{Args, LogFormat};
use zimage_gateway::forward::Forward;
use zimage_gateway::metrics::Metrics;
use zimage_gateway::proxy::{Bounds, Proxy};
use zimage_gateway::shutdown::{Drain, Presence};
use zimage_gateway::watch::{Cluster, follow};

fn main() -> Result<()> {
    let args = Args::parse();
    start_log(args.log_format);
    let (metrics, presence) = (Metrics::default(), Presence::default());
    let (learned, known) = watch::channel(None);
    let bounds = Bounds {
        request_timeout: Duration::from_secs(args.request_timeout_seconds),
        max_body_bytes: args.max_body_bytes,
        max_buffered_bytes: args.max_buffered_bytes,
    };
    let forward = Arc::new(Forward::new(known.clone(), metrics.clone()));
    let proxy = Proxy::new(
        Arc::clone(&forward),
        known,
        presence.clone(),
        metrics.clone(),
        bounds,
    );

    // pingora makes runtimes of its own for its services; this one watches the cluster and shows the metrics.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let listener = runtime
        .block_on(TcpListener::bind(args.metrics_listen))
        .with_context(|| format!("failed to listen on {}", args.metrics_listen))?;
    runtime.spawn(show_metrics(listener, metrics.clone()));
    let cluster = runtime
        .block_on(Cluster::connect())
        .map_err(anyhow::Error::from_boxed)
        .context("failed to find a Kubernetes cluster")?;
    runtime.spawn(async move { forward.tend().await });
    let (namespace, name) = (args.namespace.clone(), args.name.clone());
    runtime.spawn(async move { follow(cluster, &namespace, &name, &metrics, learned).await });

    let drain = Drain {
        presence,
        lame_duck: Duration::from_secs(args.lame_duck_seconds),
        timeout: Duration::from_secs(args.drain_timeout_seconds),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let conf = ServerConf {
        threads,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = Service::new("gateway".to_owned(), proxy);
    service.add_tcp(&args.listen.to_string());
    server.add_service(service);
    tracing::info!(listen = %args.listen, metrics = %args.metrics_listen, "listening");
    server.run(RunArgs {
        shutdown_signal: Box::new(drain),
    });
    Ok(())
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_core=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stdout().is_terminal());
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}

async fn show_metrics(listener: TcpListener, metrics: Metrics) {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let router = Router::new()
        .route("/metrics", get(show))
        .with_state(Arc::new(registry));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics are no longer shown");
    }
}

async fn show(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
