//! A request from its head to its answer's end, counted and logged once however it ends.

use crate::envelope::MOST_OF_PATH;
use crate::metrics::Metrics;
use crate::record::Record;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until};
use uuid::Uuid;
use zimage_crds::Tier;
use zimage_edge::{BoxError, Client, ResponseBody, cut};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MOST_ID_BYTES: usize = 128;
/// The client closed the connection before its answer was complete.
const CLIENT_CLOSED: u16 = 499;

/// Dropped when the request is over.
pub(super) struct Visit {
    metrics: Metrics,
    record: Record,
    method: Method,
    path: String,
    /// Of the gateway's own making, beside the one that the client may have chosen.
    own_id: Uuid,
    began: Instant,
    bytes_in: usize,
    bytes_out: u64,
    /// Why the answer was not sent whole.
    cut: Option<&'static str>,
}

impl Visit {
    pub(super) fn begin(metrics: Metrics, head: &Parts) -> Self {
        metrics.in_flight.inc();
        let own_id = Uuid::new_v4();
        let record = Record {
            request_id: given_id(head).map_or_else(|| own_id.to_string(), str::to_owned),
            client: head.extensions.get().map(|&Client(address)| address),
            // Until there is an answer: a client that leaves drops the request.
            status: CLIENT_CLOSED,
            ..Record::default()
        };
        Self {
            metrics,
            record,
            method: head.method.clone(),
            path: cut(head.uri.path(), MOST_OF_PATH).to_owned(),
            own_id,
            began: Instant::now(),
            bytes_in: 0,
            bytes_out: 0,
            cut: Some("client"),
        }
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes_in = bytes;
    }

    pub(super) fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Follows the answer to its end, which must come before the deadline.
    pub(super) fn answered(
        mut self,
        mut response: Response<ResponseBody>,
        deadline: tokio::time::Instant,
    ) -> Response<ResponseBody> {
        self.record.status = response.status().as_u16();
        if let Ok(id) = HeaderValue::from_str(&self.record.request_id) {
            response.headers_mut().entry(REQUEST_ID).or_insert(id);
        }
        response.map(|body| {
            if body.is_end_stream() || self.method == Method::HEAD {
                self.cut = None;
            }
            let watched = Watched {
                left: body.size_hint().exact(),
                body,
                visit: self,
                deadline: Box::pin(sleep_until(deadline)),
            };
            watched.boxed_unsync()
        })
    }
}

/// The client's id when it is short and prints.
fn given_id(head: &Parts) -> Option<&str> {
    let id = head.headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_decent = !id.is_empty()
        && id.len() <= MOST_ID_BYTES
        && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_decent.then_some(id)
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (record, took) = (&self.record, self.began.elapsed());
        self.metrics.in_flight.dec();
        // An answer that was cut is not counted as what it began as.
        let code = match self.cut {
            None => record.status,
            Some("pod") => 502,
            Some("deadline") => 504,
            Some(_) => CLIENT_CLOSED,
        };
        self.metrics.answered(record.tier, code, took);
        tracing::info!(
            method = cut(self.method.as_str(), 32),
            path = self.path,
            status = record.status,
            cut_by = self.cut,
            client = record.client.map(|client| client.to_string()),
            tier = record.tier.map_or("none", Tier::as_str),
            pod = record.pod.map(|pod| pod.to_string()),
            attempts = record.attempts,
            seconds = took.as_secs_f64(),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            request_id = record.request_id,
            own_id = %self.own_id,
            "request"
        );
    }
}

/// An answer's body on its way.
struct Watched {
    body: ResponseBody,
    visit: Visit,
    /// Bytes to come, where their number is known.
    left: Option<u64>,
    deadline: Pin<Box<Sleep>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending if self.deadline.as_mut().poll(cx).is_ready() => {
                self.visit.cut = Some("deadline");
                return Poll::Ready(Some(Err("the request's time is over".into())));
            }
            Poll::Pending => return Poll::Pending,
        };
        match &frame {
            None => self.visit.cut = None,
            Some(Err(_)) => self.visit.cut = Some("pod"),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.visit.bytes_out += bytes;
                self.left = self.left.map(|left| left.saturating_sub(bytes));
                if self.left == Some(0) || self.body.is_end_stream() {
                    self.visit.cut = None;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
