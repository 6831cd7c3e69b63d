use super::*;
use crate::budget::BudgetOptions;
use crate::metrics::Metrics;
use http_body_util::{Full, StreamBody};
use std::convert::Infallible;

const MIB: usize = 1 << 20;

fn budget() -> Budget {
    let options = BudgetOptions {
        total: 16 * MIB,
        client_parts: 4,
        largest: 4 * MIB,
        answers: 0,
    };
    Budget::new(options, Metrics::default())
}

fn head(length: Option<usize>) -> Parts {
    let mut request = http::Request::post("/");
    if let Some(length) = length {
        request = request.header(header::CONTENT_LENGTH, length);
    }
    request.body(()).unwrap().into_parts().0
}

/// `pieces` of a body, one after each pause.
struct Drip {
    pieces: usize,
    size: usize,
    pause: Duration,
    next: Pin<Box<tokio::time::Sleep>>,
}

fn drip(pieces: usize, size: usize, pause: Duration) -> Drip {
    let next = Box::pin(tokio::time::sleep(pause));
    Drip {
        pieces,
        size,
        pause,
        next,
    }
}

impl http_body::Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pieces == 0 {
            return Poll::Ready(None);
        }
        ready!(std::future::Future::poll(self.next.as_mut(), cx));
        let next = Instant::now() + self.pause;
        self.next.as_mut().reset(next);
        self.pieces -= 1;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.size].into()))))
    }
}

async fn status<B>(length: Option<usize>, body: B) -> u16
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let read = read(&budget(), &head(length), body, BodyLimits::of(4 * MIB)).await;
    read.map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
}

#[tokio::test]
async fn memory_is_taken_for_what_came_and_given_back() {
    let budget = budget();
    let body = Full::new(Bytes::from(vec![b'x'; MIB]));
    let held = read(&budget, &head(Some(MIB)), body, BodyLimits::of(4 * MIB)).await;
    let held = held.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    assert_eq!((held.bytes.len(), held.charge.bytes()), (MIB, MIB));
    assert_eq!(budget.metrics().buffered.get(), MIB as i64);
    drop(held);
    assert_eq!(budget.metrics().buffered.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn announced_bytes_take_no_memory() {
    let budget = budget();
    let never = StreamBody::new(Never);
    let (head, limits) = (head(Some(4 * MIB)), BodyLimits::of(4 * MIB));
    let mut reading = pin!(read(&budget, &head, never, limits));
    let soon = tokio::time::timeout(Duration::from_secs(1), &mut reading).await;
    assert!(soon.is_err());
    assert_eq!(budget.metrics().buffered.get(), FIRST as i64);
    let refused = reading.await.err().map(|refusal| refusal.status.as_u16());
    assert_eq!(refused, Some(408));
}

/// A stream that does not come.
struct Never;

impl futures_core::Stream for Never {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_must_send_64_kilobytes_a_second_after_five_seconds() {
    let second = Duration::from_secs(1);
    assert_eq!(
        status(Some(30 * 32_000), drip(30, 32_000, second)).await,
        408
    );
    assert_eq!(
        status(Some(30 * 70_000), drip(30, 70_000, second)).await,
        200
    );
    assert_eq!(status(None, drip(4, 1, second)).await, 200);
    assert_eq!(status(None, drip(7, 1, second)).await, 408);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_came_early_earn_no_long_pause() {
    let long = Duration::from_secs(11);
    assert_eq!(
        status(None, drip(2, MIB, Duration::from_secs(4))).await,
        200
    );
    let mut pauses = drip(2, MIB, Duration::ZERO);
    pauses.pause = long;
    assert_eq!(status(Some(2 * MIB), pauses).await, 408);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_takes_none_of_the_memory_of_small_ones_even_while_it_begins() {
    let budget = budget();
    let (head, limits) = (head(Some(MIB)), BodyLimits::of(4 * MIB));
    let slow = drip(2, 1000, Duration::from_secs(2));
    let mut reading = pin!(read(&budget, &head, slow, limits));
    let soon = tokio::time::timeout(Duration::from_secs(3), &mut reading).await;
    assert!(soon.is_err());
    assert!(budget.is_unused_by_small_bodies());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_and_while_it_comes() {
    let empty = Full::new(Bytes::new());
    assert_eq!(status(Some(4 * MIB + 1), empty).await, 413);
    let body = Full::new(Bytes::from(vec![b'x'; 4 * MIB + 1]));
    assert_eq!(status(None, body).await, 413);
}

#[tokio::test(start_paused = true)]
async fn a_body_of_crumbs_costs_no_more_than_a_large_one() {
    assert_eq!(
        status(None, drip(FREE_PIECES, 1, Duration::ZERO)).await,
        200
    );
    assert_eq!(status(None, drip(1 << 20, 1, Duration::ZERO)).await, 400);
    assert_eq!(status(None, drip(8000, PIECE, Duration::ZERO)).await, 200);
}

#[tokio::test(start_paused = true)]
async fn without_room_a_body_is_refused_after_a_second() {
    let budget = budget();
    let mut all = budget.charge(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut others = budget.charge(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    assert!(all.try_grow(10 * MIB) && others.try_grow(2 * MIB));
    let body = Full::new(Bytes::from(vec![b'x'; MIB]));
    let read = read(&budget, &head(None), body, BodyLimits::of(4 * MIB)).await;
    let refusal = read.err().unwrap();
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refusal.retry_after.is_some());
}
