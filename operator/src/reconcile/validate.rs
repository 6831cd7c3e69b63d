//! What the CRD's rules cannot say about a spec. Pure.

use crate::component::Component;
use crate::fault::{Holder, ReconcileError, Taken};
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use zimage_crds::{SchedulingSpec, Tier, ZImageDeployment};

/// Checks a deployment beside the others of its namespace. A paused one is left alone, whatever its spec says.
///
/// # Errors
/// What another spec, or another name, would mend.
pub(super) fn validate(
    owner: &ZImageDeployment,
    others: &[Arc<ZImageDeployment>],
) -> Result<(), ReconcileError> {
    if owner.spec.paused {
        return Ok(());
    }
    no_duplicates(owner)?;
    no_common_names(owner, others)
}

/// Lists that Kubernetes takes for maps: it accepts an object in which a key occurs twice, and then refuses every change.
fn no_duplicates(owner: &ZImageDeployment) -> Result<(), ReconcileError> {
    let spec = &owner.spec;
    for (tier, spec) in spec.tiers().iter() {
        let Some(spec) = spec else { continue };
        unique(
            &format!("spec.{tier}.env"),
            spec.env.iter().map(|variable| &variable.name),
        )?;
        unique_secrets(tier.as_str(), &spec.scheduling)?;
        unique_claims(tier.as_str(), spec.resources.as_ref())?;
    }
    unique_claims("gateway", spec.gateway.resources.as_ref())?;
    unique_secrets("gateway", &spec.gateway.scheduling)
}

fn unique_claims(
    component: &str,
    resources: Option<&ResourceRequirements>,
) -> Result<(), ReconcileError> {
    let claims = resources.and_then(|resources| resources.claims.as_ref());
    let names = claims.into_iter().flatten().map(|claim| &claim.name);
    unique(&format!("spec.{component}.resources.claims"), names)
}

fn unique_secrets(component: &str, scheduling: &SchedulingSpec) -> Result<(), ReconcileError> {
    let names = scheduling
        .image_pull_secrets
        .iter()
        .map(|secret| &secret.name);
    unique(
        &format!("spec.{component}.scheduling.imagePullSecrets"),
        names,
    )
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a String>) -> Result<(), ReconcileError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ReconcileError::Invalid(format!(
                "{list} has the name {name:?} more than once"
            )));
        }
    }
    Ok(())
}

/// Of two deployments whose children would have the same name, the younger is refused.
fn no_common_names(
    owner: &ZImageDeployment,
    others: &[Arc<ZImageDeployment>],
) -> Result<(), ReconcileError> {
    let mut taken = Vec::new();
    for other in others {
        let elder = other.namespace() == owner.namespace() && is_older(other, owner);
        let name = common_service(&owner.name_any(), &other.name_any()).filter(|_| elder);
        taken.extend(name.map(|name| Taken {
            kind: "Service".to_owned(),
            name,
            by: Holder::Elder(other.name_any()),
        }));
    }
    match taken.is_empty() {
        true => Ok(()),
        false => Err(ReconcileError::NameTaken(taken)),
    }
}

fn is_older(one: &ZImageDeployment, other: &ZImageDeployment) -> bool {
    let age = |it: &ZImageDeployment| (it.creation_timestamp(), it.name_any());
    one.name_any() != other.name_any() && age(one) < age(other)
}

/// The Service that deployments of both names would make. Only Services can meet: the front one has the deployment's own
/// name, all else has a suffix of its component.
fn common_service(one: &str, other: &str) -> Option<String> {
    let services = |name: &str| {
        let tiers = Tier::ALL.map(|tier| Component::Server(tier).name_of(name));
        BTreeSet::from_iter([name.to_owned()].into_iter().chain(tiers))
    };
    let (of_one, of_other) = (services(one), services(other));
    (one != other).then(|| of_one.intersection(&of_other).next().cloned())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Cause;
    use serde_json::{Value, json};
    use zimage_crds::Reason;

    fn deployment(name: &str, created: &str, primary: Value) -> ZImageDeployment {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        let mut tier = json!({"model": {"variant": "Turbo", "source": source}});
        tier.as_object_mut()
            .unwrap()
            .extend(primary.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
            "metadata": {"name": name, "namespace": "art", "creationTimestamp": created},
            "spec": {"primary": tier},
        }))
        .unwrap()
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn the_younger_of_two_whose_services_meet_is_refused_by_name() {
        for suffix in ["primary", "fallback"] {
            let (short, long) = ("a".to_owned(), format!("a-{suffix}"));
            for (elder, younger) in [(&short, &long), (&long, &short)] {
                let elder = Arc::new(deployment(elder, EARLY, json!({})));
                let younger = Arc::new(deployment(younger, LATE, json!({})));
                let all = [Arc::clone(&elder), Arc::clone(&younger)];
                validate(&elder, &all).unwrap();
                let error = validate(&younger, &all).unwrap_err();
                assert_eq!(error.reason(), Reason::NameTaken);
                let message = error.message();
                assert!(
                    message.contains(&format!("Service a-{suffix}")),
                    "{message}"
                );
                assert!(message.contains(&elder.name_any()), "{message}");
            }
        }
    }

    #[test]
    fn other_names_and_other_namespaces_do_not_meet() {
        let elder = Arc::new(deployment("a", EARLY, json!({})));
        for name in ["a-gateway", "a-primary-b", "ab", "b-a", "a-primary-primary"] {
            validate(&deployment(name, LATE, json!({})), &[Arc::clone(&elder)]).unwrap();
        }
        let mut elsewhere = deployment("a-primary", LATE, json!({}));
        elsewhere.metadata.namespace = Some("other".to_owned());
        validate(&elsewhere, &[elder]).unwrap();
    }

    #[test]
    fn a_name_twice_in_a_list_that_kubernetes_takes_for_a_map_is_the_spec_s_fault() {
        let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
        let secrets = json!({"imagePullSecrets": [{"name": "s"}, {"name": "s"}]});
        for (primary, field) in [
            (json!({"env": twice}), "spec.primary.env"),
            (
                json!({"resources": {"claims": [{"name": "c"}, {"name": "c"}]}}),
                "spec.primary.resources.claims",
            ),
            (
                json!({"scheduling": secrets}),
                "spec.primary.scheduling.imagePullSecrets",
            ),
        ] {
            let error = validate(&deployment("a", EARLY, primary), &[]).unwrap_err();
            assert_eq!(
                (error.cause(), error.reason()),
                (Cause::Spec, Reason::InvalidSpec)
            );
            assert!(error.message().contains(field), "{error}");
        }
    }
}
