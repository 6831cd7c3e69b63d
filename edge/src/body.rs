//! A request's body: read as a whole, in time, within the memory that there is.

use crate::budget::{Budget, Charge, SMALL};
use crate::refusal::Refusal;
use crate::seats::{Occupation, Seat};
use crate::wire::Exchange;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What a body begins with.
const FIRST: usize = 4 << 10;

/// Pieces of a body that are taken however small they are, each of which costs microseconds.
const FREE_PIECES: usize = 4096;
/// Bytes that each further piece must bring on average.
const PIECE: usize = 512;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client's address, among a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(pub SocketAddr);

/// A body as it comes.
pub struct Body {
    pub(crate) inner: Incoming,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) seat: Arc<Seat>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let frame = ready!(Pin::new(&mut body.inner).poll_frame(cx));
        if frame.is_none() {
            body.exchange.is_received();
            body.seat.is_now(Occupation::Working);
        } else {
            body.seat.is_now(Occupation::Receiving);
        }
        Poll::Ready(frame)
    }

    // Whether it has ended is known only by the frame that is none: nobody stops before that.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes.
    pub bytes: usize,
    /// Time in which it must be complete.
    pub time: Duration,
    /// After this time a client must have sent `rate` for each second that follows.
    pub grace: Duration,
    /// Bytes a second.
    pub rate: u32,
    /// Time between two pieces.
    pub pause: Duration,
}

impl BodyLimits {
    /// A body of up to `bytes` bytes: two minutes, and 64 kB a second after five seconds, with pauses of ten at the most.
    pub fn of(bytes: usize) -> Self {
        Self {
            bytes,
            time: Duration::from_secs(120),
            grace: Duration::from_secs(5),
            rate: 64_000,
            pause: Duration::from_secs(10),
        }
    }

    /// When the next byte must be here, `got` of them having come since `began`, the last ones now.
    fn deadline(&self, began: Instant, got: usize) -> Instant {
        let earned = Duration::from_secs_f64(got as f64 / f64::from(self.rate.max(1)));
        let paused = Instant::now() + self.pause;
        (began + self.grace + earned)
            .min(began + self.time)
            .min(paused)
    }
}

/// A whole body. Its memory is given back when it is dropped.
pub struct Held {
    /// The body.
    pub bytes: Bytes,
    /// Its memory, to be kept as long as the bytes or what was made of them.
    pub charge: Charge,
}

/// Reads a whole body into the budget. What is refused is counted and logged here.
///
/// # Errors
/// The answer: 413, 408, 503, or 400 for a body that broke off.
pub async fn read<B>(
    budget: &Budget,
    head: &Parts,
    body: B,
    limits: BodyLimits,
) -> Result<Held, Refusal>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let client = head.extensions.get::<Client>();
    let client = client.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |client| client.0.ip());
    let announced = announced(head);
    // What would never find room is too large, whatever may be sent elsewhere.
    let limits = BodyLimits {
        bytes: limits.bytes.min(budget.largest_body()),
        ..limits
    };
    let charge = match announced {
        Some(length) if length > SMALL => budget.large_charge(client),
        _ => budget.charge(client),
    };
    let held = collect(charge, announced, body, limits).await;
    held.inspect_err(|refusal| budget.metrics().reject(Some(client), refusal))
}

/// The length that a head announces.
fn announced(head: &Parts) -> Option<usize> {
    let length = head.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

async fn collect<B>(
    mut charge: Charge,
    announced: Option<usize>,
    body: B,
    limits: BodyLimits,
) -> Result<Held, Refusal>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if announced.is_some_and(|length| length > limits.bytes) {
        return Err(too_large(limits.bytes));
    }
    let most = announced.unwrap_or(limits.bytes);
    // Before the client is told to send: `100 Continue` goes out when the body is first asked for.
    if !charge.grow(FIRST.min(most)).await {
        return Err(no_room());
    }
    let mut body = pin!(body);
    let mut bytes = BytesMut::with_capacity(charge.bytes());
    let mut began = Instant::now();
    let mut pieces = 0_usize;
    loop {
        let deadline = limits.deadline(began, bytes.len());
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(error.into())),
            Ok(None) => break,
            Err(_) => return Err(too_slow(limits)),
        };
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = bytes.len() + data.len();
        pieces += 1;
        if pieces > FREE_PIECES + length / PIECE {
            return Err(crumbled());
        }
        if length > limits.bytes {
            return Err(too_large(limits.bytes));
        }
        if length > charge.bytes() {
            let room = next_size(length).min(most.max(length));
            let waits = Instant::now();
            if !charge.grow(room).await {
                return Err(no_room());
            }
            // The client does not answer for the time in which there was no room.
            began += waits.elapsed();
            bytes.reserve(room - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    charge.shrink(bytes.len().max(FIRST.min(charge.bytes())));
    Ok(Held {
        bytes: bytes.freeze(),
        charge,
    })
}

/// Small bodies double, larger ones grow by a quarter.
fn next_size(length: usize) -> usize {
    length + length.min(SMALL).max(length / 4)
}

fn too_large(most: usize) -> Refusal {
    let message = format!("the body is larger than {most} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn too_slow(limits: BodyLimits) -> Refusal {
    let message = format!(
        "the body comes too slowly: it must be complete within {} s, come with {} bytes a second after {} s, and pause for {} s at the most",
        limits.time.as_secs(),
        limits.rate,
        limits.grace.as_secs(),
        limits.pause.as_secs()
    );
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
}

fn crumbled() -> Refusal {
    let message = format!("the body comes in too many chunks of less than {PIECE} bytes");
    Refusal::new(StatusCode::BAD_REQUEST, "body_crumbled", message)
}

fn no_room() -> Refusal {
    let message = "as many requests are held as the memory allows; try again soon";
    Refusal::overloaded("overloaded", message)
}

/// Why a body ended: whoever looked into it has refused it, or the connection broke.
fn broken(error: BoxError) -> Refusal {
    let first: &(dyn std::error::Error + 'static) = &*error;
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    if let Some(refusal) = causes.find_map(|cause| cause.downcast_ref::<Refusal>()) {
        return refusal.clone();
    }
    tracing::debug!(%error, "a body broke off");
    Refusal::new(
        StatusCode::BAD_REQUEST,
        "body_broken",
        "the body broke off or cannot be read",
    )
}

#[cfg(test)]
mod tests;
