//! The server pods of a tier.

use super::{
    Component, GRACE_MARGIN_SECONDS, LAME_DUCK_SECONDS, Rollout, container, deployment, lame_duck,
    limited, listen, pod_spec, resources,
};
use crate::reconcile::build::Desired;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, PodSpec,
    ResourceRequirements, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use zimage_crds::contract::{METRICS_PORT, SERVER_PORT};
use zimage_crds::{GpuSpec, LimitsSpec, Precision, Tier, TierSpec, ZImageDeployment};

/// Where the claim with the checkpoint is mounted.
const MODELS: &str = "/models";
/// Tells a server to compute on a GPU.
const ON_GPU: &str = "--device=cuda";
/// Tells a server to compute on the CPU.
const ON_CPU: &str = "--device=cpu";
/// Where compiled kernels and chosen algorithms are kept: a container that is started again finds them.
const GPU_CACHE: &str = "/tmp/gpu-cache";
/// Node label that NVIDIA's GPU feature discovery sets.
const GPU_PRODUCT: &str = "nvidia.com/gpu.product";

/// The Deployment of a tier.
pub(in super::super) fn server(desired: &Desired<'_>, tier: Tier, spec: &TierSpec) -> Deployment {
    let owner = desired.owner;
    let image = desired.images.servers[tier].clone();
    let component = Component::Server(tier);
    let mut container = container("server", image, arguments(owner, tier, spec), SERVER_PORT);
    container.resources = Some(resources_of(spec));
    container.env = (!spec.env.is_empty()).then(|| spec.env.clone());
    container.volume_mounts = Some(vec![
        VolumeMount {
            name: "models".to_owned(),
            mount_path: MODELS.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        },
        VolumeMount {
            name: "tmp".to_owned(),
            mount_path: "/tmp".to_owned(),
            ..VolumeMount::default()
        },
    ]);
    let mut pod = pod_spec(owner, component, &spec.scheduling, container);
    if let Some(gpu) = spec.gpu.as_ref().filter(|_| spec.uses_gpu()) {
        place_on_gpu(&mut pod, gpu);
    }
    pod.automount_service_account_token = Some(false);
    pod.volumes = Some(vec![models(spec), tmp()]);
    pod.termination_grace_period_seconds = Some(
        i64::from(spec.engine.drain_timeout_seconds) + LAME_DUCK_SECONDS + GRACE_MARGIN_SECONDS,
    );
    let replicas = desired.replicas[tier];
    deployment(owner, component, replicas, Rollout::InPlace, pod)
}

fn arguments(owner: &ZImageDeployment, tier: Tier, spec: &TierSpec) -> Vec<String> {
    let model = match &spec.model.source.persistent_volume_claim.path {
        Some(path) => format!("{MODELS}/{path}"),
        None => MODELS.to_owned(),
    };
    let precision = match spec.engine.precision {
        Precision::Auto => "auto",
        Precision::Float32 => "float32",
        Precision::Bfloat16 => "bfloat16",
        Precision::Int8 => "int8",
    };
    let flags = [
        ("model", model),
        ("model-name", spec.model.variant.model_name().to_owned()),
        ("alias", owner.name_any()),
        ("tier", tier.as_str().to_owned()),
        listen("listen", SERVER_PORT),
        listen("metrics-listen", METRICS_PORT),
        ("precision", precision.to_owned()),
        ("max-batch-size", spec.engine.max_batch_size.to_string()),
        ("max-queue-length", spec.engine.max_queue_length.to_string()),
        (
            "max-queue-seconds",
            spec.engine.max_queue_seconds.to_string(),
        ),
        (
            "request-timeout-seconds",
            owner.spec.gateway.request_timeout_seconds.to_string(),
        ),
        lame_duck(),
        (
            "drain-timeout-seconds",
            spec.engine.drain_timeout_seconds.to_string(),
        ),
    ];
    let gpu = spec.uses_gpu().then(|| ("gpu-cache", GPU_CACHE.to_owned()));
    let flags = flags
        .into_iter()
        .chain(limits(&owner.spec.limits))
        .chain(gpu)
        .map(|(flag, value)| format!("--{flag}={value}"));
    let device = if spec.uses_gpu() { ON_GPU } else { ON_CPU };
    ["serve", device]
        .map(str::to_owned)
        .into_iter()
        .chain(flags)
        .collect()
}

/// Flags of the limits that the spec sets; the others are the server's own.
fn limits(spec: &LimitsSpec) -> impl Iterator<Item = (&'static str, String)> {
    // A pattern without `..`: a new limit does not compile until it is handed on.
    let LimitsSpec {
        max_images,
        max_pixels,
        max_steps,
        max_cost,
    } = spec;
    let flags = [
        ("max-images", max_images),
        ("max-pixels", max_pixels),
        ("max-steps", max_steps),
        ("max-cost", max_cost),
    ];
    flags
        .into_iter()
        .filter_map(|(flag, value)| Some((flag, value.as_ref()?.to_string())))
}

/// Whether a server that runs was told to compute on a GPU.
pub(in super::super::super) fn computes_on_gpu(server: &Container) -> bool {
    let mut arguments = server.args.iter().flatten();
    arguments.any(|argument| argument == ON_GPU)
}

fn resources_of(spec: &TierSpec) -> ResourceRequirements {
    let default = default_resources(spec.uses_gpu());
    let mut resources = limited(spec.resources.as_ref(), default);
    if let Some(gpu) = spec.gpu.as_ref().filter(|_| spec.uses_gpu()) {
        // An extended resource cannot be overcommitted: its limit is its request.
        let limits = resources.limits.get_or_insert_default();
        limits.insert(gpu.resource_name.clone(), Quantity(gpu.count.to_string()));
    }
    resources
}

/// What a released model needs: on the CPU its float32 weights, 41 GB; on a GPU the host's part, among it the pages of the
/// checkpoint while it is loaded. `/tmp` and the log are what is written.
fn default_resources(on_gpu: bool) -> ResourceRequirements {
    let (memory, most) = if on_gpu {
        ("16Gi", "32Gi")
    } else {
        ("48Gi", "64Gi")
    };
    resources(
        &[
            ("cpu", "2"),
            ("memory", memory),
            ("ephemeral-storage", "1Gi"),
        ],
        &[("memory", most), ("ephemeral-storage", "2Gi")],
    )
}

fn place_on_gpu(pod: &mut PodSpec, gpu: &GpuSpec) {
    if let Some(product) = &gpu.product {
        pod.node_selector
            .get_or_insert_default()
            .insert(GPU_PRODUCT.to_owned(), product.clone());
    }
    // Clouds keep other pods off their GPU nodes by a taint of the resource's name.
    let toleration = Toleration {
        key: Some(gpu.resource_name.clone()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    };
    let tolerations = pod.tolerations.get_or_insert_default();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
    }
}

fn models(spec: &TierSpec) -> Volume {
    Volume {
        name: "models".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: spec.model.source.persistent_volume_claim.claim_name.clone(),
            read_only: Some(true),
        }),
        ..Volume::default()
    }
}

/// The root file system is read-only; compiled kernels and tuning results go here.
fn tmp() -> Volume {
    Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity("1Gi".to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}
