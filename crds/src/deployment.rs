//! The custom resource itself.

use crate::limits::LimitsSpec;
use crate::status::ZImageDeploymentStatus;
use crate::tier::{SchedulingSpec, TierSpec};
use crate::traffic::TrafficSpec;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Z-Image as a service: a primary tier, an optional fallback tier, and the traffic between them.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "zimage.dev",
    version = "v1alpha1",
    kind = "ZImageDeployment",
    namespaced,
    status = "ZImageDeploymentStatus",
    shortname = "zimg",
    category = "all",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.primary.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary.ready"),
    printcolumn(name = "Fallback", type_ = "string", json_path = ".status.fallback.ready"),
    printcolumn(name = "Split", type_ = "string", json_path = ".status.traffic.split"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.traffic.state", priority = 1),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.primary.model", priority = 1),
    printcolumn(name = "GPU", type_ = "string", json_path = ".spec.primary.gpu.product", priority = 1),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("self.metadata.name.size() <= 40", "metadata.name must have at most 40 characters: children add suffixes to it"),
    validation = ("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')", "metadata.name must be a DNS label that starts with a letter: Services carry it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.fallback) && self.fallback != null) || !has(self.traffic) || self.traffic.weights.primary > 0",
    "traffic.weights.primary must be above 0 when there is no fallback tier"
))]
pub struct ZImageDeploymentSpec {
    /// Required. The tier that normally gets most requests.
    pub primary: TierSpec,
    /// The tier that takes over while the primary is saturated, unhealthy or being replaced. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<TierSpec>,
    /// The pods that route requests to the tiers. Unset: each field has its default.
    #[serde(default)]
    pub gateway: GatewaySpec,
    /// How requests are split between the tiers. Unset: each field has its default.
    #[serde(default)]
    pub traffic: TrafficSpec,
    /// What a newer operator does to parts whose spec names no image: `Keep` leaves them on the image that they were made with
    /// (the condition `ImagesCurrent` tells that there is a newer one), `Follow` rolls them out to its default. Default: `Keep`.
    #[serde(default)]
    pub upgrade_policy: UpgradePolicy,
    /// What one request may ask for. Unset: the servers' own bounds.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// True: the operator changes nothing for this object, neither pods nor weights. Default: false.
    #[serde(default)]
    pub paused: bool,
}

/// What a newer operator does to parts whose spec names no image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradePolicy {
    /// Nothing: an upgrade of the operator replaces no pod.
    #[default]
    Keep,
    /// They run the operator's default image.
    Follow,
}

/// The pods that route requests to the tiers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Gateway pods. 1 to 100, default 2.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// Container image, 1 to 1024 characters. Unset: what the gateway already runs, and for a new one the operator's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// Seconds that one request may take, the wait in the queue included. 1 to 7200, default 900.
    #[schemars(range(min = 1, max = 7200))]
    pub request_timeout_seconds: i32,
    /// Names that the header Host of a request may have, with or without a port, up to 32. Unset: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 253), regex(pattern = r"^[^\s,/]+$"))
    )]
    pub allowed_hosts: Option<Vec<String>>,
    /// Origins of web pages that may ask, such as https://studio.example.com, up to 32. Unset: the gateway's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 261), regex(pattern = r"^https?://[^\s,/]+$"))
    )]
    pub allowed_origins: Option<Vec<String>>,
    /// CPU, memory and disk of each pod; memory always has a limit, without one here the default's or the request. Unset:
    /// requests of 100m CPU, 64Mi memory and 16Mi ephemeral-storage, limits of 256Mi memory and 256Mi ephemeral-storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where pods may run; each field is passed to the pod as it is. Unset: wherever Kubernetes finds room.
    pub scheduling: SchedulingSpec,
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            replicas: 2,
            image: None,
            request_timeout_seconds: 900,
            allowed_hosts: None,
            allowed_origins: None,
            resources: None,
            scheduling: SchedulingSpec::default(),
        }
    }
}
