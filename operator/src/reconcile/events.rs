//! Which events a change of status is worth. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use zimage_crds::{ConditionType, Reason, Severity, TrafficState, ZImageDeploymentStatus};

/// Whether a condition's change is told. `Ready` repeats what another one says, the traffic has its own event, and figures
/// that come and go are none.
const fn is_told(kind: ConditionType) -> bool {
    match kind {
        ConditionType::Accepted
        | ConditionType::PrimaryReady
        | ConditionType::FallbackReady
        | ConditionType::TrafficReady
        | ConditionType::ImagesCurrent => true,
        ConditionType::MetricsAvailable | ConditionType::Shifted | ConditionType::Ready => false,
    }
}

/// The events between two statuses: a condition with another status or reason, another refusal for the same reason, and
/// another state of the traffic.
pub(super) fn between(
    before: &ZImageDeploymentStatus,
    after: &ZImageDeploymentStatus,
) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in &after.conditions {
        let told = ConditionType::named(&condition.type_).is_some_and(is_told);
        let same = before.conditions.iter().any(|other| {
            other.type_ == condition.type_
                && other.status == condition.status
                && other.reason == condition.reason
                && (!is_refusal(condition) || other.message == condition.message)
        });
        if told && !same {
            events.push(event(
                &condition.reason,
                &condition.type_,
                &condition.message,
            ));
        }
    }
    events.extend(traffic(before, after));
    events
}

/// Whether the spec was not, or not wholly, carried out: why is in the message.
fn is_refusal(condition: &Condition) -> bool {
    condition.type_ == ConditionType::Accepted.as_str() && condition.status == "False"
}

fn traffic(before: &ZImageDeploymentStatus, after: &ZImageDeploymentStatus) -> Option<Event> {
    let state =
        |status: &ZImageDeploymentStatus| status.traffic.as_ref().map(|traffic| traffic.state);
    let (was, is) = (state(before), state(after)?);
    // A deployment begins without any ready pod; its conditions tell that already.
    if was == Some(is)
        || (was.is_none() && matches!(is, TrafficState::BothDown | TrafficState::Normal))
    {
        return None;
    }
    let traffic = after.traffic.as_ref()?;
    let shifted = after
        .conditions
        .iter()
        .find(|it| it.type_ == ConditionType::Shifted.as_str())?;
    Some(event(&traffic.reason, &shifted.type_, &shifted.message))
}

/// The condition's type is the event's action too: events of the same reason and action become one series.
fn event(reason: &str, subject: &str, message: &str) -> Event {
    let severity = Reason::named(reason).map_or(Severity::Normal, Reason::severity);
    Event {
        type_: match severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        },
        reason: reason.to_owned(),
        note: Some(format!("{subject}: {message}").chars().take(1000).collect()),
        action: subject.to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(primary: (&str, &str), state: &str) -> ZImageDeploymentStatus {
        let condition = |kind: &str, status: &str, reason: &str| -> Value {
            json!({"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        serde_json::from_value(json!({
            "conditions": [condition("PrimaryReady", primary.0, primary.1), condition("Shifted", "True", "Saturated")],
            "traffic": {"weights": {"primary": 0, "fallback": 100}, "split": "0/100", "state": state,
                "reason": "Saturated", "since": "2026-01-01T00:00:00Z"},
        }))
        .unwrap()
    }

    fn reasons(before: &ZImageDeploymentStatus, after: &ZImageDeploymentStatus) -> Vec<String> {
        between(before, after)
            .into_iter()
            .map(|event| event.reason)
            .collect()
    }

    #[test]
    fn nothing_new_is_no_event() {
        let same = status(("True", "Available"), "Normal");
        assert!(reasons(&same, &same).is_empty());
    }

    #[test]
    fn another_reason_of_a_condition_and_another_state_of_the_traffic_are_told() {
        let before = status(("True", "Available"), "Normal");
        let after = status(("False", "ModelInvalid"), "Shifted");
        assert_eq!(reasons(&before, &after), ["ModelInvalid", "Saturated"]);
    }

    #[test]
    fn another_refusal_for_the_same_reason_is_told() {
        let refused = |message: &str| -> ZImageDeploymentStatus {
            let condition = json!({"type": "Accepted", "status": "False", "reason": "ApplyFailed",
                "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json!({"conditions": [condition]})).unwrap()
        };
        let (quota, policy) = (refused("exceeded quota"), refused("denied by a policy"));
        assert_eq!(reasons(&quota, &policy), ["ApplyFailed"]);
        assert!(reasons(&policy, &policy).is_empty());
    }

    #[test]
    fn a_new_deployment_is_told_once_and_without_alarm_about_its_traffic() {
        let after = status(("False", "Progressing"), "BothDown");
        let events = between(&ZImageDeploymentStatus::default(), &after);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].type_, EventType::Normal);
    }
}
