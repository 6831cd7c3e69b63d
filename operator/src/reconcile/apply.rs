//! Makes the children what they should be: creation of what is missing, server-side apply of what differs, deletion of what is
//! no longer wanted. What somebody else made is never touched.

mod claim;
mod difference;
mod managed_fields;
mod reverts;

use super::build::{Wanted, is_of, kinds};
use super::dereference::Existing;
use crate::component::Component;
use crate::fault::{Contested, ReconcileError, Taken};
use claim::claim;
use difference::difference;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use zimage_crds::ZImageDeployment;

pub use reverts::Reverts;

/// Owner of the fields that the operator sets.
pub(super) const FIELD_MANAGER: &str = "zimage-operator";
/// Annotation with the hash of what was applied last: tells that a field was taken out of what is wanted.
const APPLIED: &str = "zimage.dev/applied";

/// What children are applied to.
pub(super) struct Target<'a> {
    /// The API server.
    pub(super) client: &'a Client,
    /// Whose children they are.
    pub(super) owner: &'a ZImageDeployment,
    /// What exists of them.
    pub(super) existing: &'a Existing,
    /// What had to be put back.
    pub(super) reverts: &'a Reverts,
}

/// Brings the children to what is wanted: first the accounts, whose identity the others need. Returns them as they are then.
///
/// # Errors
/// Names that belong to others, before anything is written; the API server's refusal of the first child that it refuses, and
/// what was applied so far stays.
pub(super) async fn apply(
    target: &Target<'_>,
    wanted: &Wanted,
) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
    let Target {
        client,
        owner,
        existing,
        ..
    } = target;
    check_names(client, owner, &wanted.children(None)?, existing).await?;
    let accounts = apply_all(target, wanted.accounts.clone()).await?;
    let others = wanted.others(gateway_account(owner, &accounts))?;
    let others = apply_all(target, others).await?;
    let children = [accounts, others].concat();
    prune(client, &children, existing).await?;
    Ok(children)
}

/// The children as they are, when they are as wanted; nothing is changed.
///
/// # Errors
/// What is not as wanted.
pub(super) fn hold(
    target: &Target<'_>,
    wanted: &Wanted,
) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
    let Target {
        owner, existing, ..
    } = target;
    let wanted = wanted.children(gateway_account(owner, &existing.children))?;
    match differences(wanted, existing) {
        None => Ok(existing.children.clone()),
        Some(differences) => Err(ReconcileError::Held(differences)),
    }
}

/// The UID of the gateway's account, where it is among these.
fn gateway_account<'a>(
    owner: &ZImageDeployment,
    children: &'a [Arc<DynamicObject>],
) -> Option<&'a str> {
    let name = Component::Gateway.account(owner);
    let kind = ApiResource::erase::<ServiceAccount>(&());
    let mut children = children.iter();
    let account = children.find(|child| child.name_any() == name && is_of(&kind, child))?;
    account.metadata.uid.as_deref()
}

/// The child that exists of the same kind and name.
fn same_as<'a>(existing: &'a Existing, wanted: &DynamicObject) -> Option<&'a Arc<DynamicObject>> {
    existing.children.iter().find(|child| {
        child.name_any() == wanted.name_any() && kind_name(child) == kind_name(wanted)
    })
}

/// Checks, before anything is written, that every name that children still need is free.
async fn check_names(
    client: &Client,
    owner: &ZImageDeployment,
    wanted: &[DynamicObject],
    existing: &Existing,
) -> Result<(), ReconcileError> {
    let mut taken = Vec::new();
    let missing = wanted
        .iter()
        .filter(|child| same_as(existing, child).is_none());
    for child in missing {
        let live = api(client, child).get_opt(&child.name_any()).await?;
        taken.extend(live.and_then(|live| taken_by_another(owner, &live).err()));
    }
    match taken.is_empty() {
        true => Ok(()),
        false => Err(ReconcileError::NameTaken(taken)),
    }
}

/// Applies every child that is not yet as wanted and returns all as they are then. That something else changes one of them
/// again and again is told after all others.
async fn apply_all(
    target: &Target<'_>,
    wanted: Vec<DynamicObject>,
) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
    let Target {
        client,
        owner,
        existing,
        reverts,
    } = target;
    let mut applied = Vec::with_capacity(wanted.len());
    let mut contested = None;
    for mut child in wanted {
        mark(&mut child);
        let live = same_as(existing, &child);
        match live.map(|live| (live, difference(&child, live))) {
            Some((live, None)) => applied.push(Arc::clone(live)),
            Some((live, Some(field))) if is_as_applied_last(&child, live) => {
                let verdict = reverts.of(&child);
                if verdict.is_contested {
                    contested = Some(contest(&child, field));
                }
                match verdict.may_write {
                    true => applied.push(Arc::new(write(client, owner, child).await?)),
                    false => applied.push(Arc::clone(live)),
                }
            }
            _ => applied.push(Arc::new(write(client, owner, child).await?)),
        }
    }
    match contested {
        Some(contested) => Err(ReconcileError::Contested(contested)),
        None => Ok(applied),
    }
}

/// Deletes the children that are not among `wanted`.
async fn prune(
    client: &Client,
    wanted: &[Arc<DynamicObject>],
    existing: &Existing,
) -> Result<(), kube::Error> {
    for child in &existing.children {
        let wanted = wanted
            .iter()
            .any(|other| other.types == child.types && other.name_any() == child.name_any());
        if wanted || child.metadata.deletion_timestamp.is_some() || existing.is_in_use(child) {
            continue;
        }
        delete(&api(client, child), child).await?;
        tracing::info!(kind = kind_name(child), name = child.name_any(), "deleted");
    }
    Ok(())
}

/// What differs between the children and those that are wanted, in words. `None`: nothing.
fn differences(wanted: Vec<DynamicObject>, existing: &Existing) -> Option<String> {
    const SHOWN: usize = 3;
    let describe = |child: &DynamicObject| format!("{} {}", kind_name(child), child.name_any());
    let mut names = Vec::new();
    let mut known = Vec::new();
    for mut child in wanted {
        mark(&mut child);
        let live = same_as(existing, &child);
        if live.is_none_or(|live| difference(&child, live).is_some()) {
            names.push(describe(&child));
        }
        known.extend(live.cloned());
    }
    let surplus = existing
        .children
        .iter()
        .filter(|child| !known.contains(child) && child.metadata.deletion_timestamp.is_none());
    names.extend(surplus.map(|child| describe(child)));
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let shown = names.join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (_, 0) => Some(shown),
        (_, more) => Some(format!("{shown} and {more} more")),
    }
}

/// Creates a child or, where it is the deployment's own, applies it.
async fn write(
    client: &Client,
    owner: &ZImageDeployment,
    mut child: DynamicObject,
) -> Result<DynamicObject, ReconcileError> {
    let api = api(client, &child);
    let name = child.name_any();
    let Some(live) = api.get_opt(&name).await? else {
        return create(&api, &child).await;
    };
    if let Err(taken) = taken_by_another(owner, &live) {
        return Err(ReconcileError::NameTaken(vec![taken]));
    }
    if is_bound_otherwise(&child, &live) {
        may_be_made(&api, &child).await?;
        delete(&api, &live).await?;
        tracing::info!(kind = kind_name(&child), name, "deleted, to be made again");
        return create(&api, &child).await;
    }
    if let Some(patch) = managed_fields::as_applied(&live) {
        api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    // One that was replaced since has another identity, and the API server refuses.
    child.metadata.uid = live.uid();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let live = api.patch(&name, &parameters, &Patch::Apply(&child)).await?;
    tracing::info!(kind = kind_name(&child), name, "applied");
    Ok(live)
}

async fn create(
    api: &Api<DynamicObject>,
    child: &DynamicObject,
) -> Result<DynamicObject, ReconcileError> {
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let created = api.create(&parameters, child).await?;
    tracing::info!(kind = kind_name(child), name = child.name_any(), "created");
    Ok(created)
}

/// Asks whether a child of another name could be created: what works is not deleted for what would be refused.
async fn may_be_made(
    api: &Api<DynamicObject>,
    child: &DynamicObject,
) -> Result<(), ReconcileError> {
    let mut trial = child.clone();
    trial.metadata.name = Some(format!("{}-trial", child.name_any()));
    let parameters = PostParams {
        dry_run: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    api.create(&parameters, &trial).await?;
    Ok(())
}

/// Deletes this very object: not one of the same name that someone made since.
async fn delete(api: &Api<DynamicObject>, child: &DynamicObject) -> Result<(), kube::Error> {
    let parameters = DeleteParams::background().preconditions(Preconditions {
        uid: child.uid(),
        resource_version: None,
    });
    match api.delete(&child.name_any(), &parameters).await {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// Whether a binding is to another role, which no binding can be changed to.
fn is_bound_otherwise(wanted: &DynamicObject, live: &DynamicObject) -> bool {
    let role = |child: &DynamicObject| child.data.get("roleRef").cloned();
    kind_name(wanted) == "RoleBinding" && role(wanted) != role(live)
}

fn taken_by_another(owner: &ZImageDeployment, live: &DynamicObject) -> Result<(), Taken> {
    claim(owner, live).map_err(|by| Taken {
        kind: kind_name(live).to_owned(),
        name: live.name_any(),
        by,
    })
}

fn contest(child: &DynamicObject, field: String) -> Contested {
    Contested {
        kind: kind_name(child).to_owned(),
        name: child.name_any(),
        field,
    }
}

/// # Panics
/// For a kind that is not a child's; `build` makes no other.
fn api(client: &Client, child: &DynamicObject) -> Api<DynamicObject> {
    let mut kinds = kinds().into_iter();
    let kind = kinds.find(|kind| is_of(kind, child));
    let kind = kind.expect("a child is of one of the known kinds");
    Api::namespaced_with(
        client.clone(),
        &child.namespace().unwrap_or_default(),
        &kind,
    )
}

fn kind_name(child: &DynamicObject) -> &str {
    child.types.as_ref().map_or("?", |types| &types.kind)
}

fn mark(child: &mut DynamicObject) {
    let mut hash = Sha256::new();
    for part in [
        serde_json::to_vec(&child.metadata),
        serde_json::to_vec(&child.data),
    ] {
        hash.update(part.unwrap_or_default());
    }
    let hash: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    child.annotations_mut().insert(APPLIED.to_owned(), hash);
}

/// Whether the same was applied before: what differs now was changed by something else.
fn is_as_applied_last(wanted: &DynamicObject, live: &DynamicObject) -> bool {
    wanted.annotations().get(APPLIED) == live.annotations().get(APPLIED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn marked(data: Value) -> DynamicObject {
        let mut object = serde_json::from_value(data).unwrap();
        mark(&mut object);
        object
    }

    #[test]
    fn a_field_that_is_no_longer_wanted_is_a_difference() {
        let before = marked(json!({"spec": {"replicas": 1, "paused": true}}));
        let wanted = marked(json!({"spec": {"replicas": 1}}));
        assert_eq!(
            difference(&wanted, &before),
            Some(format!("metadata.annotations[{APPLIED}]"))
        );
        assert!(!is_as_applied_last(&wanted, &before));
    }
}
