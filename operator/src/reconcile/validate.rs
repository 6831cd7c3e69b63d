//! What the API server cannot check when it takes a `ZImageDeployment`. Pure.

use super::build::tier_spec;
use zimage_crds::{Tier, TierSpec, ZImageDeploymentSpec};

/// The first fault of the spec, as a sentence that names the field and what would be right.
///
/// # Errors
/// When there is a fault.
pub(super) fn validate(spec: &ZImageDeploymentSpec) -> Result<(), String> {
    for tier in Tier::ALL {
        if let Some(spec) = tier_spec(spec, tier) {
            validate_tier(spec).map_err(|fault| format!("spec.{tier}.{fault}"))?;
        }
    }
    Ok(())
}

fn validate_tier(spec: &TierSpec) -> Result<(), String> {
    let Some(gpu) = &spec.gpu else { return Ok(()) };
    let resources = spec.resources.iter();
    let mut named = resources
        .flat_map(|it| it.limits.iter().chain(&it.requests))
        .flat_map(|map| map.keys());
    if named.any(|name| *name == gpu.resource_name) {
        let name = &gpu.resource_name;
        return Err(format!(
            "resources: {name} is set from gpu.count; take it out of resources"
        ));
    }
    let selected = spec.scheduling.node_selector.get("nvidia.com/gpu.product");
    match (selected, &gpu.product) {
        (Some(selected), Some(product)) if selected != product => Err(format!(
            "scheduling.nodeSelector: nvidia.com/gpu.product={selected} contradicts gpu.product {product}; keep one"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fault(primary: Value) -> Option<String> {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        let mut tier = json!({"model": {"variant": "Turbo", "source": source}, "gpu": {"product": "NVIDIA-H800"}});
        tier.as_object_mut()
            .unwrap()
            .extend(primary.as_object().unwrap().clone());
        validate(&serde_json::from_value(json!({"primary": tier})).unwrap()).err()
    }

    #[test]
    fn a_plain_tier_has_no_fault() {
        assert_eq!(fault(json!({})), None);
    }

    #[test]
    fn gpus_are_counted_in_one_place() {
        let fault = fault(json!({"resources": {"limits": {"nvidia.com/gpu": "2"}}})).unwrap();
        assert!(
            fault.starts_with("spec.primary.resources: nvidia.com/gpu"),
            "{fault}"
        );
    }

    #[test]
    fn a_node_selector_must_not_contradict_the_gpu() {
        let selector = json!({"nvidia.com/gpu.product": "NVIDIA-A10G"});
        let fault = fault(json!({"scheduling": {"nodeSelector": selector}})).unwrap();
        assert!(fault.contains("contradicts"), "{fault}");
    }
}
