//! How old what the gateway knows is, and whether it is still let in. Pure, but for the layer at the end.
//!
//! An API server that is away leaves the last known state in force, however old it is. One that answers and refuses the
//! gateway's credentials (its ServiceAccount was deleted and made again, its Role was changed) is another thing: time
//! alone does not mend it, since the kubelet gives the pod's volume a new token only near the old one's end. The gateway
//! says so and serves on: to end itself would trade a state that is old for none, because a new process in the same pod
//! gets the same token. What helps is a new pod, which the operator makes when the ServiceAccount is another one.

use http::{Request, Response, StatusCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Instant as Clock;
use tower::{Layer, Service};

/// Refusals for this long, without an answer that is none, are no accident.
pub const REFUSED_AT_MOST: Duration = Duration::from_secs(60);

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The ZImageDeployment.
    Deployment,
    /// The EndpointSlices of its tiers.
    Endpoints,
}

impl Source {
    /// Both, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Deployment, Self::Endpoints];

    /// Label of the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Endpoints => "endpoints",
        }
    }

    fn of_path(path: &str) -> Option<Self> {
        let is = |plural: &str| path.split('/').any(|part| part == plural);
        if is("zimagedeployments") {
            Some(Self::Deployment)
        } else if is("endpointslices") {
            Some(Self::Endpoints)
        } else {
            None
        }
    }
}

/// One source's contact with the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    heard: Option<Instant>,
    /// The first and the last refusal since it was heard.
    refused: Option<(StatusCode, Instant, Instant)>,
}

impl Contact {
    /// The API server answered.
    pub fn answered(&mut self, status: StatusCode, now: Instant) {
        if status.is_success() {
            *self = Self {
                heard: Some(now),
                refused: None,
            };
        } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let first = self.refused.map_or(now, |(_, first, _)| first);
            self.refused = Some((status, first, now));
        }
    }

    /// Time since the API server let the gateway see the source; none before the first time.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.heard.map(|heard| now.saturating_duration_since(heard))
    }

    /// The status of refusals that have gone on for [`REFUSED_AT_MOST`]. An API server that is away does not refuse.
    pub fn is_refused(&self) -> Option<StatusCode> {
        let (status, first, last) = self.refused?;
        (last.saturating_duration_since(first) >= REFUSED_AT_MOST).then_some(status)
    }
}

/// The contacts of both sources. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Contacts(Arc<Mutex<[Contact; 2]>>);

impl Contacts {
    /// A source's contact as it is.
    pub fn of(&self, source: Source) -> Contact {
        self.lock()[source as usize]
    }

    fn lock(&self) -> MutexGuard<'_, [Contact; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every answer of the API server passes here, so a watch that has nothing to tell is heard as well.
impl<S> Layer<S> for Contacts {
    type Service = Heard<S>;

    fn layer(&self, service: S) -> Heard<S> {
        Heard {
            service,
            contacts: self.clone(),
        }
    }
}

/// A client whose answers are noted.
#[derive(Clone)]
pub struct Heard<S> {
    service: S,
    contacts: Contacts,
}

impl<S, A, B> Service<Request<A>> for Heard<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = futures::future::BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let source = Source::of_path(request.uri().path());
        let contacts = self.contacts.clone();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let (Some(source), Ok(answer)) = (source, &answer) {
                contacts.lock()[source as usize].answered(answer.status(), Clock::now().into_std());
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_age_counts_from_the_last_answer_that_let_the_gateway_in() {
        let start = Instant::now();
        let mut contact = Contact::default();
        assert_eq!(contact.age(start), None);
        contact.answered(StatusCode::OK, start);
        contact.answered(StatusCode::INTERNAL_SERVER_ERROR, start + SECOND * 5);
        contact.answered(StatusCode::FORBIDDEN, start + SECOND * 6);
        assert_eq!(contact.age(start + SECOND * 9), Some(SECOND * 9));
    }

    #[test]
    fn refusals_count_after_a_minute_of_them() {
        let start = Instant::now();
        let mut contact = Contact::default();
        for second in 0..60 {
            contact.answered(StatusCode::UNAUTHORIZED, start + SECOND * second);
            assert_eq!(contact.is_refused(), None);
        }
        contact.answered(StatusCode::UNAUTHORIZED, start + SECOND * 60);
        assert_eq!(contact.is_refused(), Some(StatusCode::UNAUTHORIZED));
        contact.answered(StatusCode::OK, start + SECOND * 61);
        assert_eq!(contact.is_refused(), None);
    }

    #[test]
    fn an_api_server_that_goes_away_after_a_refusal_does_not_refuse() {
        let start = Instant::now();
        let mut contact = Contact::default();
        contact.answered(StatusCode::UNAUTHORIZED, start);
        contact.answered(StatusCode::SERVICE_UNAVAILABLE, start + SECOND * 600);
        assert_eq!(contact.is_refused(), None);
    }

    #[test]
    fn sources_are_told_by_their_paths() {
        let of = Source::of_path;
        assert_eq!(
            of("/apis/zimage.dev/v1alpha1/namespaces/art/zimagedeployments"),
            Some(Source::Deployment)
        );
        assert_eq!(
            of("/apis/discovery.k8s.io/v1/namespaces/endpointslices/endpointslices"),
            Some(Source::Endpoints)
        );
        assert_eq!(of("/version"), None);
    }
}
