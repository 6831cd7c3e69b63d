//! The conditions of a deployment. Pure.

use super::trouble;
use super::{Fault, Parts, Seen};
use crate::traffic::{Load, Policy};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use zimage_crds::{ConditionType, Reason, Tier, TrafficState, ZImageDeployment};

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
    owner: &ZImageDeployment,
    seen: &Seen<'_>,
    fault: Option<&Fault>,
) -> Vec<(ConditionType, Verdict)> {
    let primary = tier_ready(seen, Tier::Primary);
    let fallback = tier_ready(seen, Tier::Fallback);
    let traffic = traffic_ready(seen, [&primary, &fallback]);
    let accepted = match fault {
        Some(fault) => Verdict::no(fault.reason, fault.message.clone()),
        None if owner.spec.paused => Verdict::yes(Reason::Paused, PAUSED),
        None => Verdict::yes(Reason::Valid, "the spec is valid"),
    };
    let ready = match fault {
        Some(_) => accepted.clone(),
        None => match ready(owner, seen, &primary, &fallback, &traffic) {
            // Where everyone looks.
            ready if ready.is_true && owner.spec.paused => Verdict::yes(Reason::Paused, PAUSED),
            ready => ready,
        },
    };
    vec![
        (ConditionType::Accepted, accepted),
        (ConditionType::PrimaryReady, primary),
        (ConditionType::FallbackReady, fallback),
        (ConditionType::TrafficReady, traffic),
        (ConditionType::MetricsAvailable, metrics_available(seen)),
        (ConditionType::Shifted, shifted(owner, seen)),
        (ConditionType::ImagesCurrent, images_current(seen)),
        (ConditionType::Ready, ready),
    ]
}

fn images_current(seen: &Seen<'_>) -> Verdict {
    match seen.outdated.is_empty() {
        true => Verdict::yes(
            Reason::Available,
            "every part runs the image of the spec or the operator's own",
        ),
        false => Verdict::no(
            Reason::UpdateAvailable,
            format!(
                "{}; spec.upgradePolicy Follow rolls it out",
                seen.outdated.join("; ")
            ),
        ),
    }
}

fn tier_ready(seen: &Seen<'_>, tier: Tier) -> Verdict {
    match seen.tier(tier) {
        None => Verdict::no(
            Reason::NotConfigured,
            format!("the spec has no {tier} tier"),
        ),
        Some(parts) if parts.replicas == 0 => {
            Verdict::no(Reason::ScaledToZero, format!("spec.{tier}.replicas is 0"))
        }
        Some(parts) => part_ready(parts),
    }
}

fn part_ready(parts: &Parts<'_>) -> Verdict {
    let (ready, asked) = (parts.ready(), parts.replicas);
    let count = format!("{ready} of {asked} pods are ready");
    let trouble = trouble::find(parts);
    match trouble {
        Some(trouble) if ready == 0 => Verdict::no(trouble.reason, trouble.message),
        Some(trouble) => Verdict::yes(Reason::Available, format!("{count}; {}", trouble.message)),
        None if ready == 0 => Verdict::no(Reason::Progressing, count),
        None => Verdict::yes(Reason::Available, count),
    }
}

fn traffic_ready(seen: &Seen<'_>, tiers: [&Verdict; 2]) -> Verdict {
    let gateway = part_ready(&seen.gateway);
    if gateway.is_true && !tiers.iter().any(|tier| tier.is_true) {
        return Verdict::no(
            Reason::NoReadyPods,
            "no tier has a ready pod to send requests to",
        );
    }
    let outdated = &seen.decision.knowledge.outdated;
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

fn metrics_available(seen: &Seen<'_>) -> Verdict {
    match seen.decision.observation.primary.load {
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
fn shifted(owner: &ZImageDeployment, seen: &Seen<'_>) -> Verdict {
    let memory = &seen.decision.memory;
    let what = match memory.state() {
        TrafficState::Normal if memory.reason() == Reason::FiguresMissing => {
            "the primary's figures were missing for ten minutes while traffic was shifted, so it returned"
        }
        TrafficState::Normal => "the tiers have the weights of the spec",
        TrafficState::BothDown => "no tier has a ready pod; the last weights stay",
        TrafficState::Shifted => "the primary's GPUs were saturated for the whole window",
        TrafficState::PrimaryDown => "the primary has no ready pod",
        TrafficState::FallbackDown => "the fallback has no ready pod",
    };
    let split = super::split(memory.weights());
    Verdict {
        is_true: !Policy::from(&owner.spec).is_as_specified(memory.weights()),
        reason: memory.reason(),
        message: format!("{what}: primary/fallback {split}"),
    }
}

/// Every child is rolled out, and each tier that has weight in the spec has a ready pod.
fn ready(
    owner: &ZImageDeployment,
    seen: &Seen<'_>,
    primary: &Verdict,
    fallback: &Verdict,
    traffic: &Verdict,
) -> Verdict {
    let weights = owner.spec.traffic.weights;
    let without_fallback = owner.spec.fallback.is_none();
    let needed = [
        (
            Tier::Primary,
            primary,
            weights.primary > 0 || without_fallback,
        ),
        (
            Tier::Fallback,
            fallback,
            weights.fallback > 0 && !without_fallback,
        ),
    ];
    for (tier, verdict, is_needed) in needed {
        if is_needed && !verdict.is_true {
            return Verdict::no(verdict.reason, format!("{tier} tier: {}", verdict.message));
        }
    }
    if !traffic.is_true {
        return traffic.clone();
    }
    for (name, parts) in seen.parts() {
        if !parts.is_rolled_out() {
            let message = format!(
                "{name}: {} of {} pods are updated",
                parts.updated(),
                parts.replicas
            );
            return Verdict::no(Reason::Progressing, message);
        }
    }
    Verdict::yes(Reason::Available, "everything is rolled out and serves")
}
