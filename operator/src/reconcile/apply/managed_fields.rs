//! Whose the fields of an object are. Pure.
//!
//! A child is made with POST, which never touches what exists; its fields then belong to an update of the operator's.
//! Server-side apply takes a field away only from what was applied. So before the first apply to a child the entry of its
//! creation is renamed to one of an apply, as client-go's `csaupgrade` does for what kubectl made.

use super::FIELD_MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

const APPLY: &str = "Apply";

/// The merge patch that makes the fields of the creation those of an apply. `None`: they are already.
pub(super) fn as_applied(live: &DynamicObject) -> Option<Value> {
    let is_ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none()
    };
    let is_apply = |entry: &ManagedFieldsEntry| entry.operation.as_deref() == Some(APPLY);
    let mut entries = live.managed_fields().to_vec();
    if entries
        .iter()
        .any(|entry| is_ours(entry) && is_apply(entry))
    {
        return None;
    }
    let created = entries.iter_mut().find(|entry| is_ours(entry))?;
    created.operation = Some(APPLY.to_owned());
    let metadata = json!({
        "uid": live.uid(),
        "resourceVersion": live.resource_version(),
        "managedFields": entries,
    });
    Some(json!({"metadata": metadata}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(entries: Value) -> DynamicObject {
        let metadata =
            json!({"name": "a", "uid": "1", "resourceVersion": "7", "managedFields": entries});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn entry(manager: &str, operation: &str) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}})
    }

    #[test]
    fn what_was_created_becomes_what_was_applied() {
        let theirs = entry("kubectl", "Update");
        let live = object(json!([theirs, entry(FIELD_MANAGER, "Update")]));
        let patch = as_applied(&live).unwrap();
        assert_eq!(
            patch["metadata"]["managedFields"],
            json!([theirs, entry(FIELD_MANAGER, "Apply")])
        );
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn what_was_applied_stays_and_what_others_made_is_theirs() {
        assert_eq!(
            as_applied(&object(json!([entry(FIELD_MANAGER, "Apply")]))),
            None
        );
        assert_eq!(
            as_applied(&object(json!([entry("kubectl", "Update")]))),
            None
        );
        let mut status = entry(FIELD_MANAGER, "Update");
        status["subresource"] = json!("status");
        assert_eq!(as_applied(&object(json!([status]))), None);
    }
}
