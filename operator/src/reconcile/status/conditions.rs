//! The conditions of a deployment. Pure.

use super::trouble;
use super::{ComponentState, Fault, Observed};
use crate::decide::traffic::{Load, Policy};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use zimage_crds::{ConditionType, PerTier, Reason, Tier, TrafficState, ZImageDeployment};

/// What a condition says, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_true: bool,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            is_true: true,
            reason,
            message: message.into(),
        }
    }

    pub(super) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            is_true: false,
            reason,
            message: message.into(),
        }
    }

    /// The condition; its transition time is `before`'s unless the status flips.
    pub(super) fn condition(
        self,
        kind: ConditionType,
        owner: &ZImageDeployment,
        before: &[Condition],
        now: Timestamp,
    ) -> Condition {
        let status = if self.is_true { "True" } else { "False" };
        let before = before
            .iter()
            .find(|condition| condition.type_ == kind.as_str());
        let since = before.filter(|condition| condition.status == status);
        Condition {
            type_: kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: self.message,
            observed_generation: owner.metadata.generation,
            last_transition_time: since.map_or(Time(now), |condition| {
                condition.last_transition_time.clone()
            }),
        }
    }
}

const PAUSED: &str =
    "spec.paused is true: what runs is as the spec asks for; neither pods nor weights are changed";

/// All conditions.
pub(super) fn verdicts(
    observed: &Observed<'_>,
    fault: Option<&Fault>,
) -> Vec<(ConditionType, Verdict)> {
    let owner = observed.desired.owner;
    let tiers = PerTier::from_fn(|tier| tier_ready(observed, tier));
    let traffic = traffic_ready(observed, &tiers);
    let accepted = match fault {
        Some(fault) => Verdict::no(fault.reason, fault.message.clone()),
        None if owner.spec.paused => Verdict::yes(Reason::Paused, PAUSED),
        None => Verdict::yes(Reason::Valid, "the spec is valid"),
    };
    let ready = match fault {
        Some(_) => accepted.clone(),
        None => match ready(observed, &tiers, &traffic) {
            // Where everyone looks.
            ready if ready.is_true && owner.spec.paused => Verdict::yes(Reason::Paused, PAUSED),
            ready => ready,
        },
    };
    vec![
        (ConditionType::Accepted, accepted),
        (ConditionType::PrimaryReady, tiers.primary),
        (ConditionType::FallbackReady, tiers.fallback),
        (ConditionType::TrafficReady, traffic),
        (ConditionType::MetricsAvailable, metrics_available(observed)),
        (ConditionType::Shifted, shifted(observed)),
        (ConditionType::ImagesCurrent, images_current(observed)),
        (ConditionType::Ready, ready),
    ]
}

fn images_current(observed: &Observed<'_>) -> Verdict {
    match observed.outdated.is_empty() {
        true => Verdict::yes(
            Reason::Available,
            "every component runs the image of the spec or the operator's own",
        ),
        false => Verdict::no(
            Reason::UpdateAvailable,
            format!(
                "{}; spec.upgradePolicy Follow rolls it out",
                observed.outdated.join("; ")
            ),
        ),
    }
}

fn tier_ready(observed: &Observed<'_>, tier: Tier) -> Verdict {
    match &observed.servers[tier] {
        None => Verdict::no(
            Reason::NotConfigured,
            format!("the spec has no {tier} tier"),
        ),
        Some(component) if component.replicas == 0 => {
            Verdict::no(Reason::ScaledToZero, format!("spec.{tier}.replicas is 0"))
        }
        Some(component) => component_ready(component),
    }
}

fn component_ready(component: &ComponentState<'_>) -> Verdict {
    let (ready, asked) = (component.ready(), component.replicas);
    let count = format!("{ready} of {asked} pods are ready");
    let trouble = trouble::find(component);
    match trouble {
        Some(trouble) if ready == 0 => Verdict::no(trouble.reason, trouble.message),
        Some(trouble) => Verdict::yes(Reason::Available, format!("{count}; {}", trouble.message)),
        None if ready == 0 => Verdict::no(Reason::Progressing, count),
        None => Verdict::yes(Reason::Available, count),
    }
}

fn traffic_ready(observed: &Observed<'_>, tiers: &PerTier<Verdict>) -> Verdict {
    let gateway = component_ready(&observed.gateway);
    if gateway.is_true && !tiers.iter().any(|(_, verdict)| verdict.is_true) {
        return Verdict::no(
            Reason::NoReadyPods,
            "no tier has a ready pod to send requests to",
        );
    }
    let outdated = &observed.snapshot.knowledge.outdated;
    if gateway.is_true && !outdated.is_empty() {
        let message = format!(
            "gateway: what {} routes by is outdated, for the API server lets it see nothing new: check the gateway's \
             ServiceAccount and Role, then delete the pod",
            outdated.join(", ")
        );
        return Verdict::no(Reason::GatewayOutdated, message);
    }
    Verdict {
        message: format!("gateway: {}", gateway.message),
        ..gateway
    }
}

fn metrics_available(observed: &Observed<'_>) -> Verdict {
    match observed.snapshot.observation.primary.load {
        Load::Fresh { .. } => Verdict::yes(
            Reason::Fresh,
            "every ready primary pod reports its utilisation and queue",
        ),
        Load::NoGpu => Verdict::no(
            Reason::NoGpu,
            "the primary pods have no GPU, so saturation never shifts traffic",
        ),
        Load::Stale => Verdict::no(
            Reason::Stale,
            "no figures of the last five seconds from every ready primary pod; weights follow readiness alone",
        ),
    }
}

/// True exactly while the weights in force are not the spec's.
fn shifted(observed: &Observed<'_>) -> Verdict {
    let traffic = &observed.snapshot.decision.traffic;
    let what = match traffic.state() {
        TrafficState::Normal if traffic.reason() == Reason::FiguresMissing => {
            "the primary's figures were missing for ten minutes while traffic was shifted, so it returned"
        }
        TrafficState::Normal => "the tiers have the weights of the spec",
        TrafficState::BothDown => "no tier has a ready pod; the last weights stay",
        TrafficState::Shifted => "the primary's GPUs were saturated for the whole window",
        TrafficState::PrimaryDown => "the primary has no ready pod",
        TrafficState::FallbackDown => "the fallback has no ready pod",
    };
    let split = super::split(traffic.weights());
    Verdict {
        is_true: !Policy::from(&observed.desired.owner.spec).is_as_specified(traffic.weights()),
        reason: traffic.reason(),
        message: format!("{what}: primary/fallback {split}"),
    }
}

/// Every child is rolled out, and each tier that has weight in the spec has a ready pod.
fn ready(observed: &Observed<'_>, tiers: &PerTier<Verdict>, traffic: &Verdict) -> Verdict {
    let spec = &observed.desired.owner.spec;
    let weights = match spec.fallback {
        Some(_) => PerTier::from(spec.traffic.weights),
        None => PerTier {
            primary: 1,
            fallback: 0,
        },
    };
    for (tier, verdict) in tiers.iter() {
        if weights[tier] > 0 && !verdict.is_true {
            return Verdict::no(verdict.reason, format!("{tier} tier: {}", verdict.message));
        }
    }
    if !traffic.is_true {
        return traffic.clone();
    }
    for (name, component) in observed.components() {
        if !component.is_rolled_out() {
            let message = format!(
                "{name}: {} of {} pods are updated",
                component.updated(),
                component.replicas
            );
            return Verdict::no(Reason::Progressing, message);
        }
    }
    Verdict::yes(Reason::Available, "everything is rolled out and serves")
}
