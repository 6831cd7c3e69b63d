//! Starts the operator: command line, log, watches, probes, election, controllers.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::future::{join_all, select_all};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use zimage_operator::args::Args;
use zimage_operator::client;
use zimage_operator::controller::{self, Shared};
use zimage_operator::decide::rollout::DefaultImages;
use zimage_operator::health::Health;
use zimage_operator::http;
use zimage_operator::leader::{Election, Lead};
use zimage_operator::metrics::Metrics;
use zimage_operator::observe::{DecisionGauges, Observer};
use zimage_operator::watches::Scope;

/// How often it is told what the operator still waits for.
const REMINDER: Duration = Duration::from_secs(30);

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
    let config = Config::infer()
        .await
        .context("failed to find a Kubernetes cluster")?;
    let lead = Lead::default();
    let reads = client::unguarded(&config).context("the cluster's certificates or credentials")?;
    let writes = client::guarded(&config, lead.clone())?;
    let scopes = follow(args, &reads);
    let metrics = Metrics::new();
    let observers: Vec<_> = scopes
        .iter()
        .map(|_| Arc::new(Observer::new(metrics.scrapes())))
        .collect();
    let health = Health::new(scopes.clone(), lead.clone()).watching(observers.clone());
    let health = Arc::new(health);
    let metrics = metrics
        .with(Arc::clone(&health))
        .with(DecisionGauges(observers.clone()));
    let metrics = Arc::new(metrics);
    let probes = http::serve(
        args.listen,
        http::Probes(Arc::clone(&health)),
        metrics.edge.clone(),
        stop.clone(),
    );
    let figures = http::serve(
        args.metrics_listen,
        http::Figures(Arc::clone(&metrics)),
        metrics.edge.of("metrics"),
        stop.clone(),
    );
    let act = async {
        tokio::select! {
            _ = select_all(scopes.iter().map(|scope| Box::pin(whole(scope)))) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let turns = Arc::clone(&health);
        let lease = (args.lease_namespace.as_str(), args.lease_name.as_str());
        let election = Election::new(reads, lease, &args.identity, move || turns.election_turns());
        let shared = shared(args, writes, metrics);
        let scopes = scopes.into_iter().zip(observers).collect();
        lead_on(election, lead, shared, scopes, stop).await
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

/// A scope for each namespace, or one for all of them.
fn follow(args: &Args, reads: &Client) -> Vec<Arc<Scope>> {
    let namespaces: Vec<Option<&str>> = match args.watch_namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    // They end with the process.
    let watches = TaskTracker::new();
    let scopes = namespaces.into_iter();
    scopes
        .map(|namespace| Arc::new(Scope::follow(reads, namespace, &watches)))
        .collect()
}

fn shared(args: &Args, client: Client, metrics: Arc<Metrics>) -> Shared {
    let reporter = Reporter {
        controller: "zimage-operator".to_owned(),
        instance: Some(args.identity.clone()),
    };
    Shared {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        images: DefaultImages {
            server: args.server_image.clone(),
            server_cuda: args.server_cuda_image.clone(),
            gateway: args.gateway_image.clone(),
        },
        peers: args.peers(),
        gateway_role: args.gateway_role.clone(),
        metrics,
    }
}

/// Returns once every list of a scope was read to its end; until then it is told which was not.
async fn whole(scope: &Scope) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut reminders = tokio::time::interval(REMINDER);
    reminders.tick().await;
    while !scope.is_whole() {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = reminders.tick() => {
                let missing = scope.obstacles().join("\n");
                tracing::warn!(missing, "not every list is there yet, so nothing is done here");
            }
        }
    }
}

/// Waits for the lead, acts, and gives the lead back.
async fn lead_on(
    mut election: Election,
    lead: Lead,
    shared: Shared,
    scopes: Vec<(Arc<Scope>, Arc<Observer>)>,
    stop: &CancellationToken,
) -> Result<()> {
    tracing::info!("waiting for the lead");
    tokio::select! {
        () = election.win(&lead) => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!("leading");
    end_with(lead.clone(), stop.clone());
    shared.metrics.leads(true);
    // A namespace whose lists are refused keeps no other waiting.
    let controllers = scopes.into_iter().map(async |(scope, observer)| {
        whole(&scope).await;
        controller::run(shared.clone(), scope, observer).await;
    });
    tokio::select! {
        _ = join_all(controllers) => {}
        // Another replica acts from now on; ending the process is the surest way to stop acting.
        () = election.keep(&lead) => bail!("the lead was lost"),
        () = stop.cancelled() => {}
    }
    election.release(&lead).await;
    shared.metrics.leads(false);
    Ok(())
}

/// Ends the process when its lead does. A thread of its own: it needs nothing of the runtime, which may stand still.
fn end_with(lead: Lead, stop: CancellationToken) {
    std::thread::spawn(move || {
        while lead.holds() {
            std::thread::sleep(lead.remaining());
        }
        if !stop.is_cancelled() {
            tracing::error!("the lead was lost: its lease was not renewed in time");
            std::process::exit(1);
        }
    });
}
