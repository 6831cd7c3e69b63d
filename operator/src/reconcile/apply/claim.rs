//! Whose an object is that has a child's name. Pure.

use super::super::dereference::controller_of;
use super::FIELD_MANAGER;
use crate::fault::Holder;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use zimage_crds::{ZImageDeployment, labels};

/// Whether an object may be changed for `owner`.
///
/// # Errors
/// Whose it is instead.
pub(super) fn claim(owner: &ZImageDeployment, live: &DynamicObject) -> Result<(), Holder> {
    match controller_of(live) {
        Some(controller) if Some(&controller.uid) == owner.uid().as_ref() => Ok(()),
        Some(controller)
            if controller.kind == ZImageDeployment::kind(&())
                && controller.name == owner.name_any() =>
        {
            Err(Holder::Predecessor)
        }
        Some(controller) => Err(Holder::Controller(
            controller.kind.clone(),
            controller.name.clone(),
        )),
        None if was_made_for(owner, live) => Ok(()),
        None => Err(Holder::Nobody),
    }
}

/// Whether this operator made an object for a deployment of this name that was deleted without its children
/// (`--cascade=orphan`): nobody else controls it, its labels say so, and the API server knows the operator as its writer.
fn was_made_for(owner: &ZImageDeployment, live: &DynamicObject) -> bool {
    let label = |key: &str| live.labels().get(key).map(String::as_str);
    let is_labelled = label(labels::MANAGED_BY) == Some(labels::MANAGED_BY_VALUE)
        && label(labels::INSTANCE) == Some(owner.name_any().as_str());
    let mut writers = live.managed_fields().iter();
    is_labelled
        && writers.any(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn owner() -> ZImageDeployment {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
            "metadata": {"name": "fox", "namespace": "art", "uid": "1"},
            "spec": {"primary": {"model": {"variant": "Turbo", "source": source}}},
        }))
        .unwrap()
    }

    fn claimed(metadata: Value) -> Result<(), Holder> {
        let live = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata});
        claim(&owner(), &serde_json::from_value(live).unwrap())
    }

    fn controller(kind: &str, name: &str, uid: &str) -> Value {
        json!([{"apiVersion": "zimage.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": true}])
    }

    #[test]
    fn what_the_deployment_controls_is_its_own() {
        let owners = controller("ZImageDeployment", "fox", "1");
        assert_eq!(claimed(json!({"ownerReferences": owners})), Ok(()));
    }

    #[test]
    fn what_others_control_or_made_is_theirs_whatever_its_labels_say() {
        let labels = json!({"app.kubernetes.io/managed-by": "zimage-operator", "app.kubernetes.io/instance": "fox"});
        assert_eq!(claimed(json!({})), Err(Holder::Nobody));
        assert_eq!(claimed(json!({"labels": labels})), Err(Holder::Nobody));
        let theirs = controller("Rollout", "fox", "2");
        let of_rollout = Holder::Controller("Rollout".to_owned(), "fox".to_owned());
        assert_eq!(
            claimed(json!({"labels": labels, "ownerReferences": theirs})),
            Err(of_rollout)
        );
        let mut no_controller = controller("ZImageDeployment", "fox", "1");
        no_controller[0]["controller"] = json!(false);
        assert_eq!(
            claimed(json!({"ownerReferences": no_controller})),
            Err(Holder::Nobody)
        );
    }

    #[test]
    fn what_a_deleted_deployment_of_the_name_left_is_waited_for() {
        let owners = controller("ZImageDeployment", "fox", "0");
        assert_eq!(
            claimed(json!({"ownerReferences": owners})),
            Err(Holder::Predecessor)
        );
    }

    #[test]
    fn what_this_operator_made_and_nobody_controls_is_taken_again() {
        let labels = json!({"app.kubernetes.io/managed-by": "zimage-operator", "app.kubernetes.io/instance": "fox"});
        let writer =
            |name: &str| json!([{"manager": name, "operation": "Apply", "apiVersion": "v1"}]);
        assert_eq!(
            claimed(json!({"labels": labels, "managedFields": writer(FIELD_MANAGER)})),
            Ok(())
        );
        assert_eq!(
            claimed(json!({"labels": labels, "managedFields": writer("kubectl")})),
            Err(Holder::Nobody)
        );
        let of_another = json!({"app.kubernetes.io/managed-by": "zimage-operator", "app.kubernetes.io/instance": "owl"});
        assert_eq!(
            claimed(json!({"labels": of_another, "managedFields": writer(FIELD_MANAGER)})),
            Err(Holder::Nobody)
        );
    }
}
