//! Starts the operator: command line, log, probes, election, controllers.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::future::join_all;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::runtime::events::{Recorder, Reporter};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use zimage_crds::ZImageDeployment;
use zimage_operator::args::{Args, DefaultImages};
use zimage_operator::controller::{self, Shared};
use zimage_operator::http;
use zimage_operator::leader::Election;
use zimage_operator::metrics::Metrics;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log_level).context("--log-level")?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .init();

    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked_to_stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        stop.cancel();
        std::future::pending().await
    };
    tokio::select! {
        outcome = run(&args, &stop) => outcome,
        () = asked_to_stop => Ok(()),
    }
}

async fn run(args: &Args, stop: &CancellationToken) -> Result<()> {
    let client = Client::try_default()
        .await
        .context("failed to find a Kubernetes cluster")?;
    let metrics = Arc::new(Metrics::new());
    let (ready, is_ready) = watch::channel(false);
    let probes = http::serve(args.listen, http::probes(is_ready), stop.clone());
    let figures = http::serve(
        args.metrics_listen,
        http::metrics(Arc::clone(&metrics)),
        stop.clone(),
    );
    let act = async {
        tokio::select! {
            () = api_served(&client, args) => {}
            () = stop.cancelled() => return Ok(()),
        }
        ready.send_replace(true);
        lead(args, client, metrics, stop).await
    };
    tokio::try_join!(
        async {
            probes
                .await
                .with_context(|| format!("failed to serve probes on {}", args.listen))
        },
        async {
            figures
                .await
                .with_context(|| format!("failed to serve metrics on {}", args.metrics_listen))
        },
        async {
            let outcome = act.await;
            stop.cancel();
            outcome
        },
    )?;
    Ok(())
}

/// Returns once `ZImageDeployments` can be listed.
async fn api_served(client: &Client, args: &Args) {
    loop {
        let api: Api<ZImageDeployment> = match args.watch_namespaces.first() {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot list ZImageDeployments; is the CustomResourceDefinition installed?")
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Waits for the lead, acts, and gives the lead back.
async fn lead(
    args: &Args,
    client: Client,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<()> {
    let mut election = Election::start(client.clone(), args)
        .await
        .context("failed to read the leader lease")?;
    tracing::info!(identity = args.identity, "waiting for the lead");
    let won = tokio::select! {
        won = election.won() => won,
        () = stop.cancelled() => false,
    };
    if won {
        tracing::info!(identity = args.identity, "leading");
        metrics.leads(true);
        let reporter = Reporter {
            controller: "zimage-operator".to_owned(),
            instance: Some(args.identity.clone()),
        };
        let shared = Shared {
            client: client.clone(),
            images: DefaultImages {
                server: args.server_image.clone(),
                server_cuda: args.server_cuda_image.clone(),
                gateway: args.gateway_image.clone(),
            },
            peers: args.peers(),
            recorder: Recorder::new(client, reporter),
            metrics: Arc::clone(&metrics),
        };
        tokio::select! {
            () = act(args, &shared, stop) => {}
            // Another replica acts from now on; ending the process is the surest way to stop acting.
            () = election.lost() => bail!("the lead was lost"),
        }
        metrics.leads(false);
    }
    election
        .release()
        .await
        .context("failed to release the leader lease")
}

/// Runs a controller for each namespace, or one for all of them, until `stop`.
async fn act(args: &Args, shared: &Shared, stop: &CancellationToken) {
    let scopes: Vec<Option<&str>> = match args.watch_namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let controllers = scopes
        .into_iter()
        .map(|scope| controller::run(shared.clone(), scope, stop.clone()));
    join_all(controllers).await;
}
