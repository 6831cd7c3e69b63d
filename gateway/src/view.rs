//! What the gateway reads of a ZImageDeployment: only what it routes by. Pure.
//!
//! A gateway outlives upgrades of the API (an upgrade of the operator replaces no pod), so this is no copy of the API's
//! types: every other field, any later value of an enum and any later source is passed over. A field that it does need
//! and cannot read is named in [`View::unreadable`], and what was known of it before stays in force.

use serde_json::Value;
use zimage_crds::{PerTier, Tier, Variant, Weights};

/// The weights of an object that gives none (`spec.traffic.weights`).
const DEFAULT_WEIGHTS: Weights = Weights {
    primary: 90,
    fallback: 10,
};
/// The weights without a fallback tier.
const PRIMARY_ALONE: Weights = Weights {
    primary: 100,
    fallback: 0,
};

/// One object as the gateway sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Each tier's model, if there is such a tier: the name by which a request can pin it, none when the object does not
    /// tell it.
    pub models: PerTier<Option<Option<String>>>,
    /// The weights in force; none when they cannot be read.
    pub weights: Option<Weights>,
    /// Fields that are there and cannot be read.
    pub unreadable: Vec<&'static str>,
}

impl View {
    /// Reads an object's `spec` and `status`. It never fails: what cannot be read is named.
    pub fn of(object: &Value) -> Self {
        let mut unreadable = Vec::new();
        let has_fallback = present(object, "/spec/fallback").is_some();
        let weights = if !has_fallback {
            Some(PRIMARY_ALONE)
        } else if let Some(decided) = present(object, "/status/traffic/weights") {
            let weights = weights(decided);
            if weights.is_none() {
                unreadable.push("status.traffic.weights");
            }
            weights
        } else if let Some(asked) = present(object, "/spec/traffic/weights") {
            let weights = weights(asked);
            if weights.is_none() {
                unreadable.push("spec.traffic.weights");
            }
            weights
        } else {
            Some(DEFAULT_WEIGHTS)
        };
        Self {
            models: PerTier {
                primary: Some(model(object, Tier::Primary)),
                fallback: has_fallback.then(|| model(object, Tier::Fallback)),
            },
            weights,
            unreadable,
        }
    }

    /// The weights in force, or those of `before`, or the defaults where there are none either.
    pub fn weights_or(&self, before: Option<Weights>) -> Weights {
        self.weights.or(before).unwrap_or(DEFAULT_WEIGHTS)
    }
}

/// A field that is set: null is the same as missing, as the API server has it.
fn present<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    object.pointer(pointer).filter(|value| !value.is_null())
}

/// The name of a tier's model: that of a variant which this gateway knows, otherwise what the operator says in the status.
fn model(object: &Value, tier: Tier) -> Option<String> {
    let variant = present(object, &format!("/spec/{tier}/model/variant"));
    let known = variant.and_then(|variant| serde_json::from_value::<Variant>(variant.clone()).ok());
    let told = || present(object, &format!("/status/{tier}/model"))?.as_str();
    known
        .map(Variant::model_name)
        .or_else(told)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

fn weights(value: &Value) -> Option<Weights> {
    let share = |name: &str| {
        let share = value.get(name)?.as_i64()?;
        i32::try_from(share).ok().filter(|share| *share >= 0)
    };
    let weights = Weights {
        primary: share("primary")?,
        fallback: share("fallback")?,
    };
    (weights
        != Weights {
            primary: 0,
            fallback: 0,
        })
    .then_some(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn split(primary: i32, fallback: i32) -> Option<Weights> {
        Some(Weights { primary, fallback })
    }

    /// As the operator of today writes it.
    fn today() -> Value {
        let tier = |variant: &str| {
            let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
            json!({"model": {"variant": variant, "source": source}, "replicas": 1, "device": "Auto",
                "gpu": {"count": 1}, "engine": {"precision": "Auto"}})
        };
        json!({
            "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment", "metadata": {"name": "fox"},
            "spec": {"primary": tier("Turbo"), "fallback": tier("Base"), "gateway": {"replicas": 2}, "paused": false,
                "traffic": {"mode": "Proxy", "weights": {"primary": 80, "fallback": 20}, "shift": {"trigger": "Utilization"}}},
            "status": {"observedGeneration": 3, "replicas": 1, "conditions": [],
                "primary": {"replicas": 1, "readyReplicas": 1, "ready": "1/1", "model": "z-image-turbo"},
                "fallback": {"replicas": 1, "readyReplicas": 1, "ready": "1/1", "model": "z-image"},
                "traffic": {"weights": {"primary": 0, "fallback": 100}, "split": "0/100", "state": "Shifted",
                    "reason": "Saturated", "since": "2026-01-01T00:00:00Z"}},
        })
    }

    fn with(place: &str, value: Value) -> Value {
        let mut object = today();
        let (parent, field) = place.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value;
        object
    }

    #[test]
    fn the_weights_are_the_statuss_then_the_specs_then_the_defaults() {
        assert_eq!(View::of(&today()).weights, split(0, 100));
        assert_eq!(
            View::of(&with("/status", Value::Null)).weights,
            split(80, 20)
        );
        assert_eq!(
            View::of(&json!({"spec": {"fallback": {}}})).weights,
            split(90, 10)
        );
        let alone = with("/spec/fallback", Value::Null);
        assert_eq!(View::of(&alone).weights, split(100, 0));
        assert_eq!(View::of(&alone).models.fallback, None);
    }

    /// The value of every enum of the API, of every source and of every field that does not route, from a later version.
    #[test]
    fn an_object_from_the_future_routes_as_it_says() {
        let now = View::of(&today());
        for (place, value) in [
            ("/apiVersion", json!("zimage.dev/v2")),
            ("/spec/paused", json!("UntilMonday")),
            ("/spec/later", json!([1, {"a": null}])),
            ("/spec/primary/device", json!("Tpu")),
            ("/spec/primary/engine/precision", json!("Fp8E4m3")),
            ("/spec/primary/engine", json!("Fast")),
            ("/spec/primary/replicas", json!("auto")),
            (
                "/spec/primary/gpu",
                json!([{"count": 8, "product": ["NVIDIA-B300"]}]),
            ),
            (
                "/spec/primary/model/source",
                json!({"huggingFace": {"repository": "z"}}),
            ),
            ("/spec/primary/model/source", json!("oci://models/z")),
            ("/spec/traffic/mode", json!("Gateway")),
            (
                "/spec/traffic/shift",
                json!({"trigger": {"kind": "QueueSeconds"}, "weights": "half"}),
            ),
            ("/spec/traffic/weights", json!("even")),
            ("/spec/gateway", json!(7)),
            ("/status/traffic/state", json!("Rolling")),
            ("/status/traffic/since", json!(12)),
            ("/status/traffic/reason", json!({"code": 3})),
            ("/status/conditions", json!({"Ready": true})),
            ("/status/primary", json!("1/1")),
            ("/status/fallback/readyReplicas", json!("all")),
        ] {
            assert_eq!(
                View::of(&with(place, value.clone())),
                now,
                "{place}: {value}"
            );
        }
    }

    #[test]
    fn a_model_of_a_later_version_has_the_name_that_the_status_tells() {
        let mut later = with("/spec/primary/model", json!({"repository": "edit"}));
        later["status"]["primary"]["model"] = json!("z-image-edit");
        assert_eq!(
            View::of(&later).models.primary.flatten().as_deref(),
            Some("z-image-edit")
        );
        for unnamed in [json!("Edit"), json!({"name": "Edit"}), Value::Null] {
            let mut later = with("/spec/primary/model/variant", unnamed);
            later["status"]["primary"] = Value::Null;
            let view = View::of(&later);
            assert_eq!(
                (view.models.primary, view.weights),
                (Some(None), split(0, 100))
            );
        }
    }

    #[test]
    fn weights_that_cannot_be_read_are_named_and_those_known_before_stay() {
        let known = split(70, 30);
        for weights in [
            json!("0/100"),
            json!({"primary": "0", "fallback": 100}),
            json!({"primary": -5, "fallback": 100}),
            json!({"primary": 1e300, "fallback": 100}),
            json!({"primary": 5_000_000_000_u64, "fallback": 100}),
            json!({"primary": 0, "fallback": 0}),
            json!({"fallback": 100}),
            json!([0, 100]),
        ] {
            let view = View::of(&with("/status/traffic/weights", weights.clone()));
            assert_eq!(view.unreadable, ["status.traffic.weights"], "{weights}");
            assert_eq!(Some(view.weights_or(known)), known);
            assert_eq!(Some(view.weights_or(None)), split(90, 10));
        }
        let mut asked = with("/spec/traffic/weights", json!(3));
        asked["status"] = Value::Null;
        assert_eq!(View::of(&asked).unreadable, ["spec.traffic.weights"]);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-zA-Z]{0,9}".prop_map(Value::from),
        ];
        let names = [
            "spec", "status", "primary", "fallback", "traffic", "weights", "model", "variant",
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(
                    prop::sample::select(names.to_vec()).prop_map(str::to_owned),
                    inner,
                    0..6
                )
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_an_object_is_its_weights_can_be_used(object in any_json()) {
            let weights = View::of(&object).weights_or(None);
            prop_assert!(weights.primary >= 0 && weights.fallback >= 0);
            prop_assert!(i64::from(weights.primary) + i64::from(weights.fallback) > 0);
        }
    }
}
