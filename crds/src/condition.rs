//! The closed lists of condition types and reasons.

/// A condition type of `status.conditions`. Each is present from the first reconciliation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// The spec is valid and every child is as it asks for.
    Accepted,
    /// The primary tier has at least one ready pod.
    PrimaryReady,
    /// The fallback tier has at least one ready pod.
    FallbackReady,
    /// The gateway has at least one ready pod and a tier to send requests to.
    TrafficReady,
    /// Fresh utilisation and queue figures of the primary tier exist. Does not touch `Ready`.
    MetricsAvailable,
    /// The weights in force are not those of `spec.traffic.weights`.
    Shifted,
    /// Every part whose spec names no image runs the operator's default one. Does not touch `Ready`.
    ImagesCurrent,
    /// Every child is at the current generation and updated, and each tier with weight has a ready pod.
    Ready,
}

impl ConditionType {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::PrimaryReady,
        Self::FallbackReady,
        Self::TrafficReady,
        Self::MetricsAvailable,
        Self::Shifted,
        Self::ImagesCurrent,
        Self::Ready,
    ];

    /// The type of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }

    /// The name as it stands in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::PrimaryReady => "PrimaryReady",
            Self::FallbackReady => "FallbackReady",
            Self::TrafficReady => "TrafficReady",
            Self::MetricsAvailable => "MetricsAvailable",
            Self::Shifted => "Shifted",
            Self::ImagesCurrent => "ImagesCurrent",
            Self::Ready => "Ready",
        }
    }
}

/// Whether something needs somebody's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is as it is to be, or on its way there.
    Normal,
    /// Somebody should look at it.
    Warning,
}

/// Why a condition has its value: the closed list behind `status.conditions[].reason`, event reasons and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The spec is valid and acted upon.
    Valid,
    /// The API server refuses what the spec asks for: a fault that CEL cannot express.
    InvalidSpec,
    /// The API server refuses a child for a cause outside the spec (quota, rights, a webhook); it is tried again.
    ApplyFailed,
    /// A name that a child needs belongs to something else, which is left alone; it is tried again.
    NameTaken,
    /// Something else, such as a HorizontalPodAutoscaler, sets a child's field again and again; it is put back once a minute.
    Contested,
    /// `spec.paused` is true: nothing is changed. With status False the spec is not what runs.
    Paused,
    /// Everything that the condition asks for is there.
    Available,
    /// Pods are being created or replaced.
    Progressing,
    /// The tier's `replicas` is 0.
    ScaledToZero,
    /// The spec has no such tier.
    NotConfigured,
    /// A pod cannot be scheduled because no node has a free GPU of the kind asked for.
    InsufficientGpu,
    /// A pod cannot be scheduled for another reason.
    Unschedulable,
    /// The API server refused to create a pod (quota, admission), or its node cannot start it.
    PodCreationFailed,
    /// A container image cannot be pulled.
    ImagePullFailed,
    /// The server says that its model is missing or broken; the message names the file.
    ModelInvalid,
    /// The server says that its device failed; the message names the fault.
    DeviceFailed,
    /// A pod that runs has not become ready within ten minutes: it loads, or hangs.
    StartupDeadlineExceeded,
    /// A container ends again and again.
    CrashLooping,
    /// The volume claim of the model does not exist, is not bound, or cannot be mounted.
    VolumeUnavailable,
    /// The kubelet ended a pod, most often because its node ran out of memory or disk.
    Evicted,
    /// No pod of the tier (or the gateway) is ready.
    NoReadyPods,
    /// What a gateway pod routes by is outdated: the API server lets it see nothing new.
    GatewayOutdated,
    /// Traffic has the weights of the spec.
    WithinCapacity,
    /// The primary's GPUs stayed above the limit for the whole window.
    Saturated,
    /// The primary's figures were missing for ten minutes while traffic was shifted: it has the weights of the spec again.
    FiguresMissing,
    /// The primary has no ready pod; the fallback serves.
    PrimaryUnavailable,
    /// The fallback has no ready pod; the primary serves.
    FallbackUnavailable,
    /// Neither tier has a ready pod; the last weights stay.
    BothUnavailable,
    /// The operator has a newer image than a part runs; `spec.upgradePolicy` keeps it.
    UpdateAvailable,
    /// All fresh figures are there.
    Fresh,
    /// Figures are older than five seconds or could not be read; weights do not move.
    Stale,
    /// The pods have no GPU, so there are no utilisation figures.
    NoGpu,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::Valid,
        Self::InvalidSpec,
        Self::ApplyFailed,
        Self::NameTaken,
        Self::Contested,
        Self::Paused,
        Self::Available,
        Self::Progressing,
        Self::ScaledToZero,
        Self::NotConfigured,
        Self::InsufficientGpu,
        Self::Unschedulable,
        Self::PodCreationFailed,
        Self::ImagePullFailed,
        Self::ModelInvalid,
        Self::DeviceFailed,
        Self::StartupDeadlineExceeded,
        Self::CrashLooping,
        Self::VolumeUnavailable,
        Self::Evicted,
        Self::NoReadyPods,
        Self::GatewayOutdated,
        Self::WithinCapacity,
        Self::Saturated,
        Self::FiguresMissing,
        Self::PrimaryUnavailable,
        Self::FallbackUnavailable,
        Self::BothUnavailable,
        Self::UpdateAvailable,
        Self::Fresh,
        Self::Stale,
        Self::NoGpu,
    ];

    /// The name as it stands in conditions, events and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "Valid",
            Self::InvalidSpec => "InvalidSpec",
            Self::ApplyFailed => "ApplyFailed",
            Self::NameTaken => "NameTaken",
            Self::Contested => "Contested",
            Self::Paused => "Paused",
            Self::Available => "Available",
            Self::Progressing => "Progressing",
            Self::ScaledToZero => "ScaledToZero",
            Self::NotConfigured => "NotConfigured",
            Self::InsufficientGpu => "InsufficientGPU",
            Self::Unschedulable => "Unschedulable",
            Self::PodCreationFailed => "PodCreationFailed",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ModelInvalid => "ModelInvalid",
            Self::DeviceFailed => "DeviceFailed",
            Self::StartupDeadlineExceeded => "StartupDeadlineExceeded",
            Self::CrashLooping => "CrashLooping",
            Self::VolumeUnavailable => "VolumeUnavailable",
            Self::Evicted => "Evicted",
            Self::NoReadyPods => "NoReadyPods",
            Self::GatewayOutdated => "GatewayOutdated",
            Self::WithinCapacity => "WithinCapacity",
            Self::Saturated => "Saturated",
            Self::FiguresMissing => "FiguresMissing",
            Self::PrimaryUnavailable => "PrimaryUnavailable",
            Self::FallbackUnavailable => "FallbackUnavailable",
            Self::BothUnavailable => "BothUnavailable",
            Self::UpdateAvailable => "UpdateAvailable",
            Self::Fresh => "Fresh",
            Self::Stale => "Stale",
            Self::NoGpu => "NoGPU",
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }

    /// Whether it needs somebody's attention.
    pub const fn severity(self) -> Severity {
        match self {
            Self::InvalidSpec
            | Self::ApplyFailed
            | Self::NameTaken
            | Self::Contested
            | Self::InsufficientGpu
            | Self::Unschedulable
            | Self::PodCreationFailed
            | Self::ImagePullFailed
            | Self::ModelInvalid
            | Self::DeviceFailed
            | Self::StartupDeadlineExceeded
            | Self::CrashLooping
            | Self::VolumeUnavailable
            | Self::Evicted
            | Self::NoReadyPods
            | Self::GatewayOutdated
            | Self::Saturated
            | Self::FiguresMissing
            | Self::PrimaryUnavailable
            | Self::FallbackUnavailable
            | Self::BothUnavailable => Severity::Warning,
            Self::Valid
            | Self::Paused
            | Self::Available
            | Self::Progressing
            | Self::ScaledToZero
            | Self::NotConfigured
            | Self::WithinCapacity
            | Self::UpdateAvailable
            | Self::Fresh
            | Self::Stale
            | Self::NoGpu => Severity::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.as_str()), Some(reason));
        }
        for kind in ConditionType::ALL {
            assert_eq!(ConditionType::named(kind.as_str()), Some(kind));
        }
        assert_eq!(Reason::named("Unheard"), None);
    }
}
