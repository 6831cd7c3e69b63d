//! What the gateway knows of its deployment. Pure.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use zimage_crds::{Tier, Variant, Weights, ZImageDeployment};

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Weights, models and ready pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Name of the deployment: a request for it may go to any tier.
    pub name: String,
    /// The weights in force.
    pub weights: Weights,
    /// The primary tier's model.
    pub primary: Variant,
    /// The fallback tier's model, if there is such a tier.
    pub fallback: Option<Variant>,
    /// Ready pods of the primary tier.
    pub primary_pods: BTreeSet<SocketAddr>,
    /// Ready pods of the fallback tier.
    pub fallback_pods: BTreeSet<SocketAddr>,
}

/// The model that a request names is not here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no model {asked:?}; there is {known}")]
pub struct UnknownModel {
    asked: String,
    known: String,
}

impl Topology {
    /// Out of the object and its tiers' slices.
    pub fn new(deployment: &ZImageDeployment, slices: &[EndpointSlice]) -> Self {
        let spec = &deployment.spec;
        let status = deployment
            .status
            .as_ref()
            .and_then(|status| status.traffic.as_ref());
        let name = deployment.name_any();
        let pods = |tier: Tier| ready_pods(slices, &format!("{name}-{tier}"));
        Self {
            weights: match (&spec.fallback, status) {
                (None, _) => Weights {
                    primary: 100,
                    fallback: 0,
                },
                (Some(_), Some(traffic)) => traffic.weights,
                (Some(_), None) => spec.traffic.weights,
            },
            primary: spec.primary.model.variant,
            fallback: spec.fallback.as_ref().map(|tier| tier.model.variant),
            primary_pods: pods(Tier::Primary),
            fallback_pods: pods(Tier::Fallback),
            name,
        }
    }

    /// Ready pods of a tier.
    pub const fn pods(&self, tier: Tier) -> &BTreeSet<SocketAddr> {
        match tier {
            Tier::Primary => &self.primary_pods,
            Tier::Fallback => &self.fallback_pods,
        }
    }

    const fn variant(&self, tier: Tier) -> Option<Variant> {
        match tier {
            Tier::Primary => Some(self.primary),
            Tier::Fallback => self.fallback,
        }
    }

    /// Names by which requests may ask for a model.
    pub fn models(&self) -> Vec<&str> {
        let mut names = vec![self.name.as_str()];
        for tier in Tier::ALL {
            if let Some(variant) = self.variant(tier)
                && !names.contains(&variant.model_name())
            {
                names.push(variant.model_name());
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
            let Some(variant) = self.variant(*tier) else {
                return false;
            };
            model.is_none_or(|model| model == self.name || model == variant.model_name())
        };
        let tiers: Vec<Tier> = Tier::ALL.into_iter().filter(has).collect();
        if tiers.is_empty() {
            let asked = model.unwrap_or_default().to_owned();
            return Err(UnknownModel {
                asked,
                known: self.models().join(", "),
            });
        }
        Ok(tiers)
    }
}

fn ready_pods(slices: &[EndpointSlice], service: &str) -> BTreeSet<SocketAddr> {
    let of_service = |slice: &&EndpointSlice| {
        slice
            .labels()
            .get(SERVICE_NAME)
            .is_some_and(|name| name == service)
    };
    let mut pods = BTreeSet::new();
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
                pods.extend(addresses.map(|address| SocketAddr::new(address, port)));
            }
        }
    }
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(status: Value) -> ZImageDeployment {
        let tier = |variant: &str| {
            let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
            json!({"model": {"variant": variant, "source": source}})
        };
        serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment", "metadata": {"name": "fox"},
            "spec": {"primary": tier("Turbo"), "fallback": tier("Base")},
            "status": status,
        }))
        .unwrap()
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
    fn the_weights_are_the_statuss_and_without_one_the_specs() {
        let before = Topology::new(&deployment(json!({})), &[]);
        assert_eq!(
            before.weights,
            Weights {
                primary: 90,
                fallback: 10
            }
        );
        let traffic = json!({"weights": {"primary": 0, "fallback": 100}, "split": "0/100", "state": "Shifted",
            "reason": "Saturated", "since": "2026-01-01T00:00:00Z"});
        let after = Topology::new(&deployment(json!({"traffic": traffic})), &[]);
        assert_eq!(
            after.weights,
            Weights {
                primary: 0,
                fallback: 100
            }
        );
    }

    #[test]
    fn without_a_fallback_everything_goes_to_the_primary() {
        let mut alone = deployment(json!({}));
        alone.spec.fallback = None;
        let topology = Topology::new(&alone, &[]);
        assert_eq!(
            topology.weights,
            Weights {
                primary: 100,
                fallback: 0
            }
        );
        assert_eq!(topology.tiers_with(None), Ok(vec![Tier::Primary]));
    }

    /// A gateway outlives upgrades of the API: what it does not know must not stop it.
    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let mut object = serde_json::to_value(deployment(json!({}))).unwrap();
        for place in [
            "/spec",
            "/spec/primary",
            "/spec/traffic",
            "/spec/traffic/shift",
            "/spec/gateway",
        ] {
            object.pointer_mut(place).unwrap()["later"] = json!({"a": 1});
        }
        assert!(serde_json::from_value::<ZImageDeployment>(object).is_ok());
    }

    #[test]
    fn pods_count_while_they_are_ready() {
        let endpoints = json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.3"]},
        ]);
        let topology = Topology::new(
            &deployment(json!({})),
            &[
                slice("fox-primary", endpoints),
                slice("fox", json!([{"addresses": ["10.0.0.9"]}])),
            ],
        );
        let pods: Vec<_> = topology
            .primary_pods
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(pods, ["10.0.0.1:8000", "10.0.0.3:8000"]);
        assert!(topology.fallback_pods.is_empty());
    }

    #[test]
    fn a_variants_name_pins_the_tier_and_the_deployments_name_does_not() {
        let topology = Topology::new(&deployment(json!({})), &[]);
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
}
