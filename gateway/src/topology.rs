//! What the gateway knows of its deployment. Pure.

use crate::view::View;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use zimage_crds::{PerTier, Tier, Weights};

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Ready pods: each one's address and its UID, which tells it from an earlier pod at the same address. Empty where the
/// slice does not tell it.
pub type Pods = BTreeMap<SocketAddr, String>;

/// One tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierTopology {
    /// Name by which a request can pin the tier.
    pub model: Option<String>,
    /// Its ready pods.
    pub pods: Pods,
}

/// Weights, models and ready pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Name of the deployment: a request for it may go to any tier.
    pub name: String,
    /// The weights in force.
    pub weights: Weights,
    /// The tiers that there are.
    pub tiers: PerTier<Option<TierTopology>>,
}

/// The model that a request names is not here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no model {asked:?}; there is {known}")]
pub struct UnknownModel {
    asked: String,
    known: String,
}

/// Characters of a name that are quoted back.
const MOST_QUOTED: usize = 100;

impl Topology {
    /// Out of a deployment's name, its object and its tiers' slices. Weights that cannot be read are those of `before`.
    pub fn new(name: &str, view: &View, slices: &[EndpointSlice], before: Option<&Self>) -> Self {
        let tier = |tier: Tier, model: &Option<Option<String>>| {
            let pods = || ready_pods(slices, &format!("{name}-{tier}"));
            model.clone().map(|model| TierTopology {
                model,
                pods: pods(),
            })
        };
        Self {
            name: name.to_owned(),
            weights: view.weights_or(before.map(|before| before.weights)),
            tiers: view.models.as_ref().map(tier),
        }
    }

    /// Ready pods of a tier.
    pub fn pods(&self, tier: Tier) -> impl ExactSizeIterator<Item = SocketAddr> + '_ {
        static NONE: Pods = Pods::new();
        self.tiers[tier]
            .as_ref()
            .map_or(&NONE, |tier| &tier.pods)
            .keys()
            .copied()
    }

    /// Every ready pod and its UID.
    pub fn all_pods(&self) -> impl Iterator<Item = (SocketAddr, &str)> + '_ {
        self.tiers
            .iter()
            .filter_map(|(_, tier)| tier.as_ref())
            .flat_map(|tier| &tier.pods)
            .map(|(pod, uid)| (*pod, uid.as_str()))
    }

    /// Names by which requests may ask for a model.
    pub fn models(&self) -> Vec<&str> {
        let mut names = vec![self.name.as_str()];
        for (_, tier) in self.tiers.iter() {
            let model = tier.as_ref().and_then(|tier| tier.model.as_deref());
            if let Some(model) = model
                && !names.contains(&model)
            {
                names.push(model);
            }
        }
        names
    }

    /// The tiers that may answer a request for a model; without a name all of them.
    ///
    /// # Errors
    /// When no tier has it.
    pub fn tiers_with(&self, model: Option<&str>) -> Result<Vec<Tier>, UnknownModel> {
        let has = |tier: &Tier| {
            let Some(topology) = &self.tiers[*tier] else {
                return false;
            };
            model.is_none_or(|model| model == self.name || topology.model.as_deref() == Some(model))
        };
        let tiers: Vec<Tier> = Tier::ALL.into_iter().filter(has).collect();
        if tiers.is_empty() {
            let asked = model
                .unwrap_or_default()
                .chars()
                .take(MOST_QUOTED)
                .collect();
            return Err(UnknownModel {
                asked,
                known: self.models().join(", "),
            });
        }
        Ok(tiers)
    }
}

fn ready_pods(slices: &[EndpointSlice], service: &str) -> Pods {
    let of_service = |slice: &&EndpointSlice| {
        slice
            .labels()
            .get(SERVICE_NAME)
            .is_some_and(|name| name == service)
    };
    let mut pods = Pods::new();
    for slice in slices.iter().filter(of_service) {
        let port = slice
            .ports
            .iter()
            .flatten()
            .find_map(|port| u16::try_from(port.port?).ok());
        let Some(port) = port else { continue };
        for endpoint in &slice.endpoints {
            // Unset means ready (EndpointConditions of discovery/v1).
            if endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
            {
                let addresses = endpoint
                    .addresses
                    .iter()
                    .filter_map(|address| address.parse::<IpAddr>().ok());
                let uid = endpoint
                    .target_ref
                    .as_ref()
                    .and_then(|pod| pod.uid.clone())
                    .unwrap_or_default();
                pods.extend(addresses.map(|it| (SocketAddr::new(it, port), uid.clone())));
            }
        }
    }
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn view() -> View {
        let tier = |variant: &str| json!({"model": {"variant": variant}});
        View::of(&json!({"spec": {"primary": tier("Turbo"), "fallback": tier("Base")}}))
    }

    fn topology(slices: &[EndpointSlice]) -> Topology {
        Topology::new("fox", &view(), slices, None)
    }

    fn slice(service: &str, endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{service}-abc"), "labels": {SERVICE_NAME: service}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8000}],
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    #[test]
    fn without_a_fallback_everything_goes_to_the_primary() {
        let alone = View {
            models: PerTier {
                fallback: None,
                ..view().models
            },
            ..view()
        };
        let topology = Topology::new("fox", &alone, &[], None);
        assert_eq!(topology.tiers_with(None), Ok(vec![Tier::Primary]));
    }

    #[test]
    fn weights_that_cannot_be_read_are_those_from_before() {
        let weights = Weights {
            primary: 1,
            fallback: 2,
        };
        let before = Topology {
            weights,
            ..topology(&[])
        };
        let unreadable = View {
            weights: None,
            ..view()
        };
        let topology = Topology::new("fox", &unreadable, &[], Some(&before));
        assert_eq!(topology.weights, weights);
    }

    #[test]
    fn pods_count_while_they_are_ready() {
        let endpoints = json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "uid": "u-1"}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.3"]},
        ]);
        let topology = topology(&[
            slice("fox-primary", endpoints),
            slice("fox", json!([{"addresses": ["10.0.0.9"]}])),
        ]);
        let pods: Vec<_> = topology
            .all_pods()
            .map(|(pod, uid)| (pod.to_string(), uid))
            .collect();
        assert_eq!(
            pods,
            [
                ("10.0.0.1:8000".to_owned(), "u-1"),
                ("10.0.0.3:8000".to_owned(), "")
            ]
        );
        assert_eq!(topology.pods(Tier::Fallback).len(), 0);
    }

    #[test]
    fn a_models_name_pins_the_tier_and_the_deployments_name_does_not() {
        let topology = topology(&[]);
        assert_eq!(
            topology.tiers_with(Some("fox")),
            Ok(vec![Tier::Primary, Tier::Fallback])
        );
        assert_eq!(
            topology.tiers_with(Some("z-image-turbo")),
            Ok(vec![Tier::Primary])
        );
        assert_eq!(
            topology.tiers_with(Some("z-image")),
            Ok(vec![Tier::Fallback])
        );
        let error = topology
            .tiers_with(Some("dall-e-3"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("fox, z-image-turbo, z-image"), "{error}");
    }

    #[test]
    fn an_unknown_name_is_quoted_in_part() {
        let name = "\u{7f}".repeat(1 << 20);
        let error = topology(&[]).tiers_with(Some(&name)).unwrap_err();
        assert!(error.to_string().len() < 1000);
    }
}
