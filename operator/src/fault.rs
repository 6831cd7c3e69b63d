//! Why a reconciliation failed, and who can mend it. Pure.

use kube::core::Status;
use std::fmt;
use std::time::Duration;
use zimage_crds::Reason;

/// A refusal may quote what it refuses, and an event's note has at most 1 KiB.
const MOST_CHARACTERS: usize = 900;

/// Why a reconciliation failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server cannot be asked, or refuses.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// The deployment is paused and its spec is not what runs: what differs.
    #[error("spec.paused is true, and the spec is not what runs: {0}")]
    Held(String),
    /// A child cannot be written as JSON.
    #[error("failed to write a child as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// The spec asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Names that children need belong to others.
    #[error("{}", Listed(.0))]
    NameTaken(Vec<Taken>),
    /// Something else changes a child again and again.
    #[error("{0}")]
    Contested(Contested),
    /// It took too long.
    #[error("the API server did not answer everything within {} s", .0.as_secs())]
    Late(Duration),
    /// A fault of this program.
    #[error("the reconciliation panicked; the log says where")]
    Panicked,
}

/// A name that a child needs and that belongs to something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// Whose it is.
    pub by: Holder,
}

/// Whose an object is that has a child's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It has no controller: somebody made it by hand, or with another tool.
    Nobody,
    /// The controller of this kind and name.
    Controller(String, String),
    /// A deployment of the same name that was deleted: the garbage collector takes it.
    Predecessor,
    /// Another `ZImageDeployment`, which was there first, makes one of this name.
    Elder(String),
}

/// A child that something else changes again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// The child's kind.
    pub kind: String,
    /// The child's name.
    pub name: String,
    /// What was changed last, such as `spec.replicas`.
    pub field: String,
}

/// Who can mend a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Whoever writes the spec.
    Spec,
    /// Somebody else: rights, quotas, policies, names of others.
    Outside,
    /// Time: the API server is busy, away, or was ahead of what is known.
    Time,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Spec, Self::Outside, Self::Time];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::Outside => "outside",
            Self::Time => "time",
        }
    }

    /// Time before the next attempt after this many failures in a row. A change of the deployment does not wait for it.
    pub fn pause(self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Self::Spec => (300, 300),
            Self::Outside => (5, 60),
            Self::Time => (1, 30),
        };
        let doubled = 1_u64
            .checked_shl(failures.saturating_sub(1).min(16))
            .unwrap_or(u64::MAX);
        Duration::from_secs(first * doubled).min(Duration::from_secs(longest))
    }
}

impl ReconcileError {
    /// Who can mend it.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Api(kube::Error::Api(refusal)) => of_refusal(refusal),
            Self::Invalid(_) | Self::Held(_) => Cause::Spec,
            Self::NameTaken(taken) if taken.iter().all(|it| it.by == Holder::Predecessor) => {
                Cause::Time
            }
            Self::NameTaken(_) | Self::Contested(_) => Cause::Outside,
            Self::Api(_) | Self::Serialize(_) | Self::Late(_) | Self::Panicked => Cause::Time,
        }
    }

    /// What the condition `Accepted` says.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NameTaken(_) => Reason::NameTaken,
            Self::Held(_) => Reason::Paused,
            Self::Contested(_) => Reason::Contested,
            _ if self.cause() == Cause::Spec => Reason::InvalidSpec,
            _ => Reason::ApplyFailed,
        }
    }

    /// What the condition and the log say.
    pub fn message(&self) -> String {
        let message = match self {
            Self::Api(kube::Error::Api(refusal)) => format!(
                "the API server refuses what the spec asks for: {}",
                refusal.message
            ),
            other => other.to_string(),
        };
        message.chars().take(MOST_CHARACTERS).collect()
    }
}

/// A field that the API server's own rules refuse is the spec's fault. Policies and webhooks answer with the same codes;
/// policies name no field, and of webhooks the message tells.
fn of_refusal(refusal: &Status) -> Cause {
    let causes = refusal.details.iter().flat_map(|details| &details.causes);
    let names_a_field = causes.into_iter().any(|cause| !cause.field.is_empty());
    let is_of_a_webhook = refusal.message.starts_with("admission webhook");
    match refusal.code {
        408 | 409 | 429 | 500.. => Cause::Time,
        _ if is_of_a_webhook => Cause::Outside,
        422 if names_a_field => Cause::Spec,
        // What cannot even be read.
        400 => Cause::Spec,
        _ => Cause::Outside,
    }
}

struct Listed<'a>(&'a [Taken]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, taken) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(formatter, "{separator}{taken}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, by } = self;
        match by {
            Holder::Nobody => write!(
                formatter,
                "{kind} {name} exists and was not made for this ZImageDeployment: delete it, or take another name for the ZImageDeployment"
            ),
            Holder::Controller(controller, of) => write!(
                formatter,
                "{kind} {name} exists and belongs to {controller} {of}: take another name for the ZImageDeployment"
            ),
            Holder::Predecessor => write!(
                formatter,
                "{kind} {name} is of a deleted ZImageDeployment of the same name and not deleted yet"
            ),
            Holder::Elder(elder) => write!(
                formatter,
                "{kind} {name} is a name that the older ZImageDeployment {elder} needs: take another name for this one"
            ),
        }
    }
}

impl fmt::Display for Contested {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, field } = self;
        write!(
            formatter,
            "something else changes {field} of {kind} {name} again and again: point it, such as a HorizontalPodAutoscaler, at the ZImageDeployment instead"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::{StatusCause, StatusDetails};

    fn refused(code: u16, message: &str, field: Option<&str>) -> ReconcileError {
        let cause = |field: &str| StatusCause {
            field: field.to_owned(),
            ..StatusCause {
                reason: String::new(),
                message: String::new(),
                field: String::new(),
            }
        };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: field.map(cause).into_iter().collect(),
            retry_after_seconds: 0,
        };
        let status = Status::failure(message, "")
            .with_code(code)
            .with_details(details);
        kube::Error::Api(status.boxed()).into()
    }

    #[test]
    fn a_field_that_the_api_server_refuses_is_the_spec_s_fault() {
        let of_a_field = refused(
            422,
            "Deployment is invalid",
            Some("spec.template.spec.containers[0].image"),
        );
        assert_eq!(
            (of_a_field.cause(), of_a_field.reason()),
            (Cause::Spec, Reason::InvalidSpec)
        );
        let unreadable = refused(400, "quantities must match the regular expression", None);
        assert_eq!(unreadable.cause(), Cause::Spec);
    }

    #[test]
    fn a_policy_a_webhook_a_quota_and_missing_rights_are_for_others_to_mend() {
        let policy = "deployments.apps \"fox-primary\" is forbidden: ValidatingAdmissionPolicy 'labels' with binding 'labels' denied request";
        for error in [
            refused(422, policy, None),
            refused(422, policy, Some("")),
            refused(
                400,
                "admission webhook \"a.b.c\" denied the request: no",
                None,
            ),
            refused(
                422,
                "admission webhook \"a.b.c\" denied the request: spec.x is invalid",
                Some("spec.x"),
            ),
            refused(403, "exceeded quota", None),
            refused(
                404,
                "the server could not find the requested resource",
                None,
            ),
        ] {
            assert_eq!(
                (error.cause(), error.reason()),
                (Cause::Outside, Reason::ApplyFailed),
                "{error}"
            );
        }
    }

    #[test]
    fn what_time_mends_is_tried_again_soon() {
        for code in [409, 429, 500, 503, 504] {
            assert_eq!(refused(code, "busy", None).cause(), Cause::Time, "{code}");
        }
        assert_eq!(
            ReconcileError::Late(Duration::from_secs(1)).cause(),
            Cause::Time
        );
    }

    #[test]
    fn pauses_grow_to_a_bound_that_depends_on_who_can_mend_it() {
        let pauses = |cause: Cause| [1, 2, 3, 100].map(|failures| cause.pause(failures).as_secs());
        assert_eq!(pauses(Cause::Time), [1, 2, 4, 30]);
        assert_eq!(pauses(Cause::Outside), [5, 10, 20, 60]);
        assert_eq!(pauses(Cause::Spec), [300; 4]);
    }

    #[test]
    fn a_name_that_a_predecessor_still_has_frees_itself() {
        let taken = |by| {
            ReconcileError::NameTaken(vec![Taken {
                kind: "Service".to_owned(),
                name: "fox".to_owned(),
                by,
            }])
        };
        assert_eq!(taken(Holder::Predecessor).cause(), Cause::Time);
        let of_others = taken(Holder::Nobody);
        assert_eq!(
            (of_others.cause(), of_others.reason()),
            (Cause::Outside, Reason::NameTaken)
        );
        assert!(
            of_others.message().starts_with("Service fox exists"),
            "{of_others}"
        );
    }
}
