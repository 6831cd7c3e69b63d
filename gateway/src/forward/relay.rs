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
use std::task::{Context, Poll, ready};
use tower::BoxError;
use zimage_crds::Tier;

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
}

impl Relayed {
    fn is_complete(&mut self) {
        if let (Some(asked), Some(connection)) = (self.asked.take(), self.connection.take())
            && self.is_kept
        {
            asked.pod.idle.keep(connection);
        }
    }

    fn was_cut(&mut self, error: &hyper::Error) {
        self.connection = None;
        if let Some(mut asked) = self.asked.take() {
            self.metrics.cut(self.tier);
            tracing::warn!(%error, pod = %asked.pod.address, "the pod's answer broke off");
            asked.failed(Failure::Reset);
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
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
                self.was_cut(&error);
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
