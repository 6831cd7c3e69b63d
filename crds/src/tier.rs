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
    /// Required. Name of the claim, in the namespace of the `ZImageDeployment`, 1 to 253 characters. Mounted read-only.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Folder of the checkpoint inside the volume: relative, without `..`, 1 to 1024 characters. Unset: the volume's root.
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
    /// Required. A volume claim that holds the checkpoint in the Hugging Face layout (`model_index.json` and its folders).
    pub persistent_volume_claim: PersistentVolumeClaimSource,
}

/// The model that a tier serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// Required. `Turbo` (8 forwards an image, no guidance) or `Base` (50 steps with guidance, 100 forwards): decides the
    /// model's name and the defaults for steps and guidance.
    pub variant: Variant,
    /// Required. Where the checkpoint comes from.
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
    /// int8 in the large products and bfloat16 elsewhere.
    Int8,
}

/// The GPUs of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GpuSpec {
    /// Value of the node label `nvidia.com/gpu.product` to run on, such as `NVIDIA-H800`, 1 to 63 characters. Unset: any
    /// GPU.
    // Not nullable: a rule of the tier compares it, and the API server takes a null out then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 63))]
    pub product: Option<String>,
    /// GPUs a pod, 1 to 8, default 1. Each holds the whole model and makes images of its own: a pod of two makes twice as
    /// many a second, and each image takes as long.
    #[schemars(range(min = 1, max = 8))]
    pub count: i32,
    /// Extended resource that the device plugin offers, 3 to 253 characters with a `/`. Default: `nvidia.com/gpu`.
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
    /// Number format of weights and activations: `Float32` (on the CPU alone), `Bfloat16` (on a GPU alone), `Int8` (in the
    /// large products, on a Hopper GPU alone), or `Auto`, the device's own. Default: `Auto`.
    pub precision: Precision,
    /// Images computed together at the most. 1 to 16, default 1: at 1024x1024 one image fills a GPU.
    #[schemars(range(min = 1, max = 16))]
    pub max_batch_size: i32,
    /// Requests that wait at the most in a pod; more are answered 429. 0 to 1024, default 16.
    #[schemars(range(min = 0, max = 1024))]
    pub max_queue_length: i32,
    /// Seconds that an image may have to wait in a pod, by what the last steps took; more are answered 429. 1 to 86400,
    /// default 300.
    #[schemars(range(min = 1, max = 86400))]
    pub max_queue_seconds: i32,
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
            max_queue_seconds: 300,
            drain_timeout_seconds: 120,
        }
    }
}

/// Where pods may run. Each field is passed to the pod as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SchedulingSpec {
    /// Labels that a node must have, besides the GPU product; at most 32. Unset: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods accept, besides the one named like the GPU's resource; at most 32. Unset: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Node and pod affinity. Unset: none; pods are spread over nodes as far as there is room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Runtime class, such as `nvidia`, 1 to 253 characters. Unset: the node's default runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Priority class, 1 to 253 characters. Unset: the cluster's default class, or priority 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Secrets of the namespace for pulling the image, at most 16. Unset: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

/// One tier of server pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.engine.precision != 'Bfloat16' || self.device == 'Cuda' \
         || (self.device == 'Auto' && has(self.gpu) && self.gpu != null)",
        "engine.precision Bfloat16 needs a GPU, for the CPU computes in float32: set gpu, or take Auto"
    ),
    validation = (
        "self.engine.precision != 'Int8' || self.device == 'Cuda' \
         || (self.device == 'Auto' && has(self.gpu) && self.gpu != null)",
        "engine.precision Int8 needs a GPU, and one of Hopper's at that: set gpu, or take Auto"
    ),
    validation = (
        "self.engine.precision != 'Float32' || self.device == 'Cpu' \
         || (self.device == 'Auto' && (!has(self.gpu) || self.gpu == null))",
        "engine.precision Float32 needs the CPU, for a GPU computes in bfloat16: set device Cpu, or take Auto"
    ),
    validation = (
        "!has(self.gpu) || self.gpu == null || !has(self.resources) || self.resources == null \
         || !((has(self.resources.limits) && self.gpu.resourceName in self.resources.limits) \
         || (has(self.resources.requests) && self.gpu.resourceName in self.resources.requests))",
        "resources must not name the resource of gpu.resourceName: it is asked for by gpu.count"
    ),
    validation = (
        "!has(self.gpu) || self.gpu == null || !has(self.gpu.product) \
         || !has(self.scheduling.nodeSelector) || !('nvidia.com/gpu.product' in self.scheduling.nodeSelector) \
         || self.scheduling.nodeSelector['nvidia.com/gpu.product'] == self.gpu.product",
        "scheduling.nodeSelector must not contradict gpu.product: take nvidia.com/gpu.product out of it"
    )
)]
pub struct TierSpec {
    /// Required. The model that the tier serves.
    pub model: ModelSpec,
    /// Pods of the tier. 0 to 1000, default 1. For the primary tier this is the scale subresource's value.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Container image, 1 to 1024 characters. Unset: what the tier already runs; for a new tier, and for one that gets or
    /// loses its GPU, the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// What pods compute on: `Cuda` (a pod without a GPU fails), `Cpu`, or `Auto`, which is CUDA when the tier has a `gpu`
    /// and the CPU otherwise. Default: `Auto`.
    #[serde(default)]
    pub device: Device,
    /// The GPU of each pod. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// Options of the inference engine. Unset: each has its default.
    #[serde(default)]
    pub engine: EngineSpec,
    /// CPU, memory and disk of each pod; GPUs come from `gpu` alone, and memory always has a limit, without one here the
    /// default's or the request. Unset: what a released model needs, requests of 2 CPUs,
    /// 48Gi memory (16Gi with a GPU) and 1Gi ephemeral-storage, limits of 64Gi (32Gi with a GPU) and 2Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where pods may run; each field is passed to the pod as it is. Unset: wherever Kubernetes finds room.
    #[serde(default)]
    pub scheduling: SchedulingSpec,
    /// Further environment variables of the server, at most 64. Unset: none.
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
