//! A valid `ZImageDeployment` to start from, and changes to it.

use serde_json::{Value, json};

/// A short manifest with both tiers; everything else is left to the defaults.
pub fn valid() -> Value {
    let tier = |variant: &str| json!({"model": {"variant": variant, "source": {"persistentVolumeClaim": {"claimName": "models"}}}});
    json!({
        "apiVersion": "zimage.dev/v1alpha1",
        "kind": "ZImageDeployment",
        "metadata": {"name": "fox"},
        "spec": {"primary": tier("Turbo"), "fallback": tier("Base")},
    })
}

/// Changes to a manifest, chained from a valid one.
pub trait Change {
    /// Sets the value at a dotted path such as `spec.traffic.weights`; missing parents are made.
    #[must_use]
    fn with(self, path: &str, value: Value) -> Self;

    /// Removes the value at a dotted path.
    #[must_use]
    fn without(self, path: &str) -> Self;
}

impl Change for Value {
    fn with(mut self, path: &str, value: Value) -> Self {
        let place = path
            .split('.')
            .fold(&mut self, |parent, key| &mut parent[key]);
        *place = value;
        self
    }

    fn without(mut self, path: &str) -> Self {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let place = parent
            .split('.')
            .filter(|key| !key.is_empty())
            .fold(&mut self, |value, key| &mut value[key]);
        if let Some(map) = place.as_object_mut() {
            map.remove(key);
        }
        self
    }
}
