//! One tier: a model on one kind of machine.

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The two tiers of a `ZImageDeployment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The tier that normally gets most requests.
    Primary,
    /// The tier that takes over.
    Fallback,
}

impl Tier {
    /// Both tiers, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Primary, Self::Fallback];

    /// The name in labels, metrics, headers and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Fallback => "fallback",
        }
    }

    /// The other tier.
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Fallback,
            Self::Fallback => Self::Primary,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A released Z-Image model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Variant {
    /// Z-Image-Turbo: 8 forwards an image, no guidance.
    Turbo,
    /// Z-Image (Base): 50 steps with guidance, 100 forwards an image.
    Base,
}

impl Variant {
    /// The name by which a request asks for this model: `z-image-turbo` or `z-image`.
    pub const fn model_name(self) -> &'static str {
        match self {
            Self::Turbo => "z-image-turbo",
            Self::Base => "z-image",
        }
    }
}

/// A volume claim that holds a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSource {
    /// Name of the claim, in the namespace of the `ZImageDeployment`. Mounted read-only.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Folder of the checkpoint inside the volume. Unset: the volume's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = (
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        "path must be relative to the volume and must not contain '..'"
    ))]
    pub path: Option<String>,
}

/// Where the checkpoint comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// A volume claim that holds the checkpoint in the Hugging Face layout (`model_index.json` and its folders).
    pub persistent_volume_claim: PersistentVolumeClaimSource,
}

/// The model that a tier serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// `Turbo` or `Base`: decides the model's name and the defaults for steps and guidance.
    pub variant: Variant,
    /// Where the checkpoint comes from.
    pub source: ModelSource,
}

/// What a server pod computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Device {
    /// CUDA when the tier has a `gpu`, the CPU otherwise.
    #[default]
    Auto,
    /// CUDA; the pod fails without a GPU.
    Cuda,
    /// The CPU.
    Cpu,
}

/// Number format of weights and activations. float16 is not offered: Z-Image overflows in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// bfloat16 on a GPU, float32 on a CPU.
    #[default]
    Auto,
    /// float32.
    Float32,
    /// bfloat16.
    Bfloat16,
}

/// The GPUs of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GpuSpec {
    /// Value of the node label `nvidia.com/gpu.product` to run on, such as `NVIDIA-H800`. Unset: any GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub product: Option<String>,
    /// GPUs a pod. 1 to 8, default 1.
    #[schemars(range(min = 1, max = 8))]
    pub count: i32,
    /// Extended resource that the device plugin offers. Default: `nvidia.com/gpu`.
    #[schemars(length(min = 3, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.contains('/')",
        "message": "resourceName must be an extended resource such as nvidia.com/gpu"
    }]))]
    pub resource_name: String,
}

impl Default for GpuSpec {
    fn default() -> Self {
        Self {
            product: None,
            count: 1,
            resource_name: "nvidia.com/gpu".to_owned(),
        }
    }
}

/// Options of the inference engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EngineSpec {
    /// Number format of weights and activations. Default: `Auto`.
    pub precision: Precision,
    /// Images computed together at the most. 1 to 16, default 1: at 1024x1024 one image fills a GPU.
    #[schemars(range(min = 1, max = 16))]
    pub max_batch_size: i32,
    /// Requests that wait at the most in a pod; more are answered 429. 0 to 1024, default 16.
    #[schemars(range(min = 0, max = 1024))]
    pub max_queue_length: i32,
    /// Seconds that a stopping pod gives its running requests. 1 to 3600, default 120.
    #[schemars(range(min = 1, max = 3600))]
    pub drain_timeout_seconds: i32,
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self {
            precision: Precision::Auto,
            max_batch_size: 1,
            max_queue_length: 16,
            drain_timeout_seconds: 120,
        }
    }
}

/// Where pods may run. Each field is passed to the pod as it is; unset means Kubernetes' default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SchedulingSpec {
    /// Labels that a node must have, besides the GPU product.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods accept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Node and pod affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Runtime class, such as `nvidia`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Secrets for pulling the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

/// One tier of server pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// The model that the tier serves.
    pub model: ModelSpec,
    /// Pods of the tier. 0 to 1000, default 1. For the primary tier this is the scale subresource's value.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Container image. Unset: what the tier already runs, and for a new tier the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// What pods compute on. Default: `Auto`.
    #[serde(default)]
    pub device: Device,
    /// GPUs of each pod. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// Options of the inference engine.
    #[serde(default)]
    pub engine: EngineSpec,
    /// CPU and memory of each pod; GPUs are added from `gpu`. Unset: no requests and no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where pods may run.
    #[serde(default)]
    pub scheduling: SchedulingSpec,
    /// Further environment variables of the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env: Vec<EnvVar>,
}

const fn one() -> i32 {
    1
}

impl TierSpec {
    /// Whether pods of this tier compute on a GPU.
    pub const fn uses_gpu(&self) -> bool {
        match self.device {
            Device::Auto => self.gpu.is_some(),
            Device::Cuda => true,
            Device::Cpu => false,
        }
    }
}
