//! What the operator decided and saw. Decisions only: figures that move all the time are metrics.

use crate::tier::Device;
use crate::traffic::Weights;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One tier as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierStatus {
    /// Pods asked for.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// `ready/asked`, the printer column.
    pub ready: String,
    /// Name of the model that requests can pin.
    pub model: String,
    /// Container image that the tier's pods are to run: the spec's, or the one that the operator chose. What runs is brought
    /// back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What the image is for: `Cuda` or `Cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
}

/// The gateway as it is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Container image that the gateway's pods are to run, like a tier's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Which of the policy's states is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TrafficState {
    /// The weights of the spec.
    #[default]
    Normal,
    /// The primary is saturated: the weights of `spec.traffic.shift.weights`.
    Shifted,
    /// The primary has no ready pod: all to the fallback.
    PrimaryDown,
    /// The fallback has no ready pod: all to the primary.
    FallbackDown,
    /// No tier has a ready pod: the last weights stay.
    BothDown,
}

impl TrafficState {
    /// The name in the status and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Shifted => "Shifted",
            Self::PrimaryDown => "PrimaryDown",
            Self::FallbackDown => "FallbackDown",
            Self::BothDown => "BothDown",
        }
    }
}

/// The split in force and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// The weights in force; the gateway follows them.
    pub weights: Weights,
    /// `primary/fallback`, the printer column.
    pub split: String,
    /// The policy's state.
    pub state: TrafficState,
    /// A reason of the closed list, such as `Saturated`.
    pub reason: String,
    /// When this state began.
    pub since: Time,
}

/// Status of a `ZImageDeployment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZImageDeploymentStatus {
    /// Generation of the spec that this status describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of the primary tier, for the scale subresource.
    #[serde(default)]
    pub replicas: i32,
    /// Label selector of the primary tier's pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The primary tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<TierStatus>,
    /// The fallback tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<TierStatus>,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayStatus>,
    /// The split in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficStatus>,
    /// Conditions; their types are a closed list.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
