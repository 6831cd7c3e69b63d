//! Writes a status, and tells what changed with it.

use super::apply::FIELD_MANAGER;
use super::events;
use super::written::Written;
use crate::component::DeploymentRef;
use crate::fault::ReconcileError;
use crate::metrics::Metrics;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::Recorder;
use kube::{Resource, ResourceExt};
use serde_json::json;
use zimage_crds::{ZImageDeployment, ZImageDeploymentStatus};

/// To whom it is told.
pub(super) struct Publisher<'a> {
    /// The API server.
    pub(super) client: &'a Client,
    /// What was written before.
    pub(super) written: &'a Written,
    /// Events.
    pub(super) recorder: &'a Recorder,
    /// Figures.
    pub(super) metrics: &'a Metrics,
}

/// Writes `after` where it is not what is there, then tells the events between `before` and it.
///
/// # Errors
/// The API server's refusal.
pub(super) async fn publish(
    publisher: &Publisher<'_>,
    owner: &ZImageDeployment,
    before: &ZImageDeploymentStatus,
    after: ZImageDeploymentStatus,
) -> Result<(), ReconcileError> {
    if *before == after && owner.status.as_ref() == Some(&after) {
        return Ok(());
    }
    let version = write(publisher, owner, &after).await?;
    let deployment = DeploymentRef::from_obj(owner);
    publisher.metrics.shifted(&deployment, before, &after);
    let about = owner.object_ref(&());
    for event in events::between(before, &after) {
        // A lost event is no reason to reconcile again.
        if let Err(error) = publisher.recorder.publish(&event, &about).await {
            tracing::warn!(%error, reason = event.reason, "failed to publish an event");
        }
    }
    publisher.written.note(owner, version, after);
    Ok(())
}

/// Returns the version that the object has then.
async fn write(
    publisher: &Publisher<'_>,
    owner: &ZImageDeployment,
    status: &ZImageDeploymentStatus,
) -> Result<Option<String>, ReconcileError> {
    let api: Api<ZImageDeployment> = Api::namespaced(
        publisher.client.clone(),
        &owner.namespace().unwrap_or_default(),
    );
    // Of two writers one is refused, and a deployment of the same name made since is another one.
    let patch = json!({
        "apiVersion": ZImageDeployment::api_version(&()),
        "kind": ZImageDeployment::kind(&()),
        "metadata": {"uid": owner.uid(), "resourceVersion": publisher.written.version(owner)},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(patch);
    match api
        .patch_status(&owner.name_any(), &parameters, &patch)
        .await
    {
        Ok(stored) => Ok(stored.resource_version()),
        Err(error) => {
            // What is there may be another's: the cache tells.
            publisher.written.forget(owner);
            Err(error.into())
        }
    }
}
