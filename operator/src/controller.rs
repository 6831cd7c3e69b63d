//! Which change leads to which reconciliation, and when it is tried again. No decisions about a deployment.

use crate::changes::Changes;
use crate::component::DeploymentRef;
use crate::decide::rollout::DefaultImages;
use crate::failures::Failures;
use crate::fault::ReconcileError;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::reconcile::build::Peers;
use crate::reconcile::{Context, Reverts, Written, reconcile};
use crate::watches::Scope;
use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::rbac::v1::RoleRef;
use kube::Client;
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::Recorder;
use kube::runtime::{Controller, watcher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zimage_crds::ZImageDeployment;

/// Reconciliations at the same time.
const CONCURRENCY: u16 = 16;
/// A burst of changes to one deployment within this time is one reconciliation.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long one reconciliation may take; what it did not reach is done by the next.
const DEADLINE: Duration = Duration::from_secs(45);
/// Time after which a deployment is looked at without a change: whatever was missed is not missed for ever.
const RESYNC: Duration = Duration::from_secs(300);
/// Changed decisions that wait for reconciliation.
const DECISIONS: usize = 1024;

/// What every controller shares.
#[derive(Clone)]
pub struct Shared {
    /// The API server, which is written to while this process leads.
    pub client: Client,
    /// Images of components whose spec names none.
    pub images: DefaultImages,
    /// Who may connect to the pods; `None`: everyone, without policies.
    pub peers: Option<Peers>,
    /// What gateways' accounts may do.
    pub gateway_role: RoleRef,
    /// Events.
    pub recorder: Recorder,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// Reconciles the deployments of one scope for ever. Its lists must be whole: an incomplete one would look like missing
/// children.
pub async fn run(shared: Shared, scope: Arc<Scope>, observer: Arc<Observer>) {
    let (changed, decisions) = mpsc::channel(DECISIONS);
    let context = Arc::new(Context {
        client: shared.client,
        caches: scope.caches.clone(),
        observer: Arc::clone(&observer),
        images: shared.images,
        peers: shared.peers,
        gateway_role: shared.gateway_role,
        recorder: shared.recorder,
        metrics: shared.metrics,
        written: Written::default(),
        failures: Failures::default(),
        reverts: Reverts::default(),
    });
    let changes = Arc::clone(&scope.changes);
    changes.lead();
    // Whatever changes comes through `changes`.
    let none = stream::pending::<watcher::Result<ZImageDeployment>>();
    let controller = Controller::for_stream(none, scope.owners.clone())
        .with_config(
            Config::default()
                .concurrency(CONCURRENCY)
                .debounce(DEBOUNCE),
        )
        .reconcile_on(next_of(Arc::clone(&changes)));
    let followed = Arc::clone(&changes);
    let reconciliations = controller.run(
        move |owner, context| follow(Arc::clone(&followed), owner, context),
        on_error,
        Arc::clone(&context),
    );
    let exists = |deployment: &DeploymentRef| changes.exists(deployment);
    tokio::select! {
        () = reconciliations.for_each(async |outcome| log(outcome)) => {}
        () = observer.watch(exists, changed) => {}
        () = touch(&changes, decisions) => {}
        () = forget_the_gone(&context, exists) => {}
    }
}

/// One reconciliation: whatever happens in it, a deadline that passes or a panic, is this deployment's alone.
async fn follow(
    changes: Arc<Changes>,
    owner: Arc<ZImageDeployment>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let name = DeploymentRef::from_obj(&owner);
    changes.begins(&name);
    let work = AssertUnwindSafe(Box::pin(reconcile(owner, Arc::clone(&context)))).catch_unwind();
    let outcome = match timeout(DEADLINE, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(ReconcileError::Panicked),
        Err(_) => Err(ReconcileError::Late(DEADLINE)),
    };
    changes.ended(&name);
    if outcome.is_ok() && context.failures.succeeded(&name) {
        tracing::info!(deployment = %name, "reconciled after it had failed");
    }
    outcome.map(|next| Action::requeue(next.unwrap_or(RESYNC)))
}

fn log<E: std::error::Error>(outcome: Result<(DeploymentRef, Action), E>) {
    match outcome {
        Ok((deployment, _)) => tracing::debug!(%deployment, "reconciled"),
        // A deployment that was deleted while it waited for its turn is reported as an error too.
        Err(error) => tracing::debug!(%error, "not reconciled"),
    }
}

fn on_error(owner: Arc<ZImageDeployment>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.failed(error.cause());
    let deployment = DeploymentRef::from_obj(&owner);
    let again = context.failures.failed(&deployment, error);
    let (cause, message) = (error.cause().as_str(), error.message());
    match again.is_new {
        true => {
            tracing::warn!(%deployment, cause, error = message, "failed to reconcile; trying again")
        }
        false => tracing::debug!(%deployment, cause, "failed to reconcile again"),
    }
    Action::requeue(again.after)
}

/// A decision about traffic that the status does not show is a change too.
async fn touch(changes: &Changes, mut decisions: mpsc::Receiver<DeploymentRef>) {
    while let Some(deployment) = decisions.recv().await {
        changes.touched(deployment);
    }
}

async fn forget_the_gone(context: &Context, exists: impl Fn(&DeploymentRef) -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_secs(10));
    loop {
        ticks.tick().await;
        context.forget(&exists);
    }
}

fn next_of(changes: Arc<Changes>) -> impl Stream<Item = DeploymentRef> {
    stream::unfold(changes, async |changes| {
        Some((changes.next().await, changes))
    })
}

#[cfg(test)]
mod tests;
