//! The answer, sent on as it comes.

use super::hedge::Reached;
use crate::health::Failure;
use crate::metrics::Metrics;
use crate::pods::Asked;
use crate::upstream::payload::{BodyGate, strip};
use crate::upstream::{Class, Connection};
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower::BoxError;
use zimage_crds::Tier;

/// A pod computes before it answers, and sends the answer at once: one that says no more in the middle of it for so long is
/// frozen or gone. The time that its client takes for what came does not count.
const MOST_PAUSE: Duration = Duration::from_secs(10);

/// A pod's answer for the client. The request counts as the pod's until the body's end; a body that is dropped before
/// closes the connection.
pub(super) fn relay(
    answer: Response<Incoming>,
    gate: BodyGate,
    reached: Reached,
    metrics: Metrics,
) -> Response<BoxBody<Bytes, BoxError>> {
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    head.extensions.clear();
    let relayed = Relayed {
        body,
        connection: Some(reached.connection),
        is_kept: reached.class == Class::Small,
        _gate: gate,
        asked: Some(reached.asked),
        tier: reached.tier,
        metrics,
        pause: None,
    };
    Response::from_parts(head, relayed.boxed())
}

struct Relayed {
    body: Incoming,
    connection: Option<Connection>,
    /// Whether the connection is kept for another request.
    is_kept: bool,
    _gate: BodyGate,
    asked: Option<Asked>,
    tier: Tier,
    metrics: Metrics,
    /// Ends when the pod has said nothing for too long, while it is waited for.
    pause: Option<Pin<Box<Sleep>>>,
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the pod said nothing for {} s in the middle of its answer", MOST_PAUSE.as_secs())]
struct Halted;

impl Relayed {
    fn is_complete(&mut self) {
        if let (Some(asked), Some(connection)) = (self.asked.take(), self.connection.take())
            && self.is_kept
        {
            asked.pod.idle.keep(connection);
        }
    }

    /// Whether the pod, which says nothing now, has said nothing for too long.
    fn is_halted(&mut self, context: &mut Context<'_>) -> bool {
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(sleep(MOST_PAUSE)));
        pause.as_mut().poll(context).is_ready()
    }

    fn was_cut(&mut self, failure: Failure, error: &dyn std::fmt::Display) {
        self.connection = None;
        if let Some(mut asked) = self.asked.take() {
            self.metrics.cut(self.tier);
            tracing::warn!(%error, pod = %asked.pod.address, "the pod's answer broke off");
            asked.failed(failure);
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            if !self.is_halted(context) {
                return Poll::Pending;
            }
            self.was_cut(Failure::Silent, &Halted);
            return Poll::Ready(Some(Err(Halted.into())));
        };
        self.pause = None;
        Poll::Ready(match frame {
            None => {
                self.is_complete();
                None
            }
            Some(Ok(frame)) => {
                if self.body.is_end_stream() {
                    self.is_complete();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.was_cut(Failure::Reset, &error);
                Some(Err(error.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
