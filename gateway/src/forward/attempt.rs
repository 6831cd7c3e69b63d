//! One attempt: one pod is asked.

use super::hedge::Reached;
use crate::health::{FULL_AT_MOST, Failure};
use crate::upstream::SMALL;
use crate::upstream::payload::{BodyGate, Outgoing, Payload};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use std::error::Error;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::time::sleep;

/// A pod that is to say whether it wants the body, and does not, gets it after this time (RFC 9110, section 10.1.1).
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);
/// What a server's 429 or 503 is about.
const REFUSED: &str = "x-zimage-refused";
/// It refuses this request, and may take another one.
const OF_REQUEST: &[u8] = b"request";
/// Its device was lost while it worked on this request.
const DEVICE_LOST: &[u8] = b"device-lost";
/// When to come again after a 429 that does not say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How an attempt ended; the reasons are labels of the metric. `bool`: the pod may have the body.
pub(super) enum Outcome {
    /// This is the answer. The gate is held until it is over.
    Answered(Response<Incoming>, BodyGate),
    /// The idle connection was closed by the pod before it saw the request.
    Stale,
    /// The pod's machine acknowledged nothing.
    Unreached,
    /// The pod has no room for a time.
    Full(Duration, bool),
    /// The pod refuses this request, and may take another one.
    Refused(bool),
    /// The pod did not take the request.
    Declined(&'static str, bool),
    /// The pod was lost with the request in its hands.
    Lost(&'static str),
}

/// Asks the pod. `may_leave`: whether a silent pod's request has somewhere to go.
pub(super) async fn run(
    outgoing: &Outgoing,
    reached: &mut Reached,
    was_declined: bool,
    may_leave: impl Fn() -> bool,
) -> Outcome {
    let asked = &mut reached.asked;
    let waits = outgoing.length() > SMALL || (was_declined && outgoing.length() > 0);
    let sending = outgoing.sending(asked.pod.address, waits);
    let gate = sending.body;
    asked.sent();
    let mut silences = asked.pod.silences();
    let mut answer = pin!(reached.connection.try_send_request(sending.request));
    let mut patience = pin!(sleep(EXPECT_PATIENCE));
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            () = &mut patience, if gate.is_shut() => gate.open(),
            Ok(()) = silences.changed() => {
                if may_leave() {
                    asked.failed(Failure::Silent);
                    return Outcome::Lost("silent");
                }
            }
        }
    };
    let body_sent = gate.was_sent() || outgoing.length() == 0;
    let answer = match answer {
        Ok(answer) => answer,
        Err(mut error) => {
            let was_sent = error.take_message().is_none();
            return failed(
                reached,
                &error,
                was_sent.then_some(body_sent),
                outgoing.length(),
            );
        }
    };
    let refused = answer.headers().get(REFUSED).map(HeaderValue::as_bytes);
    let of_request = refused == Some(OF_REQUEST);
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => {
            let time = retry_after(answer.headers());
            if of_request {
                asked.refused();
            } else {
                asked.is_full(time);
            }
            Outcome::Full(time, body_sent)
        }
        StatusCode::SERVICE_UNAVAILABLE if body_sent && refused == Some(DEVICE_LOST) => {
            asked.failed(Failure::Device);
            Outcome::Lost("device")
        }
        StatusCode::SERVICE_UNAVAILABLE if of_request => {
            asked.refused();
            Outcome::Refused(body_sent)
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            asked.failed(Failure::Unavailable);
            Outcome::Declined("503", body_sent)
        }
        StatusCode::BAD_GATEWAY => {
            asked.failed(Failure::Reset);
            Outcome::Declined("502", body_sent)
        }
        status if status.is_informational() => {
            asked.failed(Failure::Reset);
            Outcome::Declined("malformed", body_sent)
        }
        _ => {
            asked.answered();
            Outcome::Answered(answer, gate)
        }
    }
}

/// `body_sent`: none when nothing at all was sent.
fn failed(
    reached: &mut Reached,
    error: &TrySendError<http::Request<Payload>>,
    body_sent: Option<bool>,
    length: usize,
) -> Outcome {
    let error = error.error();
    tracing::debug!(%error, pod = %reached.asked.pod.address, is_used = reached.is_used, "no answer");
    if body_sent.is_none() && reached.is_used {
        reached.asked.was_not_sent();
        return Outcome::Stale;
    }
    if length <= SMALL && is_time_out(error) {
        reached.asked.failed(Failure::Connect);
        return Outcome::Unreached;
    }
    reached.asked.failed(Failure::Reset);
    let reason = if error.is_parse() {
        "malformed"
    } else {
        "reset"
    };
    if body_sent == Some(true) {
        Outcome::Lost(reason)
    } else {
        Outcome::Declined(reason, false)
    }
}

/// Whether the kernel gave the connection up.
fn is_time_out(error: &hyper::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds
        .map_or(DEFAULT_RETRY_AFTER, Duration::from_secs)
        .clamp(DEFAULT_RETRY_AFTER, FULL_AT_MOST)
}
