//! How many pods each tier is to have. Pure.

use zimage_crds::{PerTier, ZImageDeploymentSpec};

/// What the spec asks for; 0 of a tier that it does not have.
pub fn replicas(spec: &ZImageDeploymentSpec) -> PerTier<i32> {
    spec.tiers()
        .map(|_, tier| tier.map_or(0, |tier| tier.replicas))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_tier_has_the_pods_that_the_spec_asks_for_and_a_missing_one_none() {
        let tier = |replicas| {
            json!({"replicas": replicas,
                "model": {"variant": "Turbo", "source": {"persistentVolumeClaim": {"claimName": "m"}}}})
        };
        let replicas_of = |spec| replicas(&serde_json::from_value(spec).unwrap());
        let both = replicas_of(json!({"primary": tier(3), "fallback": tier(2)}));
        assert_eq!((both.primary, both.fallback), (3, 2));
        let alone = replicas_of(json!({"primary": tier(0)}));
        assert_eq!((alone.primary, alone.fallback), (0, 0));
    }
}
