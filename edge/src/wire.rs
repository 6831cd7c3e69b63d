//! A client's connection, as hyper sees it.
//!
//! hyper is given heads that [`head`] has read, and not one byte past a request's end: a head that is refused, late or
//! too large never reaches it, and what a client sends while its request is computed waits here.

mod absence;
mod taking;

use crate::head::{self, Framing};
use crate::refusal::Refusal;
use crate::seats::{Occupation, Seat};
use absence::Absence;
use bytes::{Buf, BytesMut};
use http::StatusCode;
use hyper::rt::ReadBufCursor;
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use taking::Taking;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that are read at a time, and that are kept of what comes after a request.
const MOST_BUFFERED: usize = head::MOST_BYTES;
/// What a connection holds before its head is larger.
const FIRST_BUFFER: usize = 1 << 10;

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A head must be complete so long after its first byte.
    pub head: Duration,
    /// A connection may wait so long for a request.
    pub idle: Duration,
    /// A client must take something of its answer in this time, and 8 KiB/s on average.
    pub write: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(60),
        }
    }
}

/// What a connection, its request's body and its answer tell each other.
#[derive(Default)]
pub(crate) struct Exchange {
    /// The whole body was read.
    received: AtomicBool,
    /// hyper has the whole answer.
    answered: AtomicBool,
    /// The body has no length: the connection ends with its answer, since its end is not looked for here.
    chunked: AtomicBool,
}

impl Exchange {
    pub(crate) fn is_received(&self) {
        self.received.store(true, Ordering::Release);
    }

    pub(crate) fn is_answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    pub(crate) fn has_chunks(&self) -> bool {
        self.chunked.load(Ordering::Acquire)
    }

    fn begin(&self, framing: Framing) {
        self.received.store(false, Ordering::Release);
        self.answered.store(false, Ordering::Release);
        let chunked = framing == Framing::Chunked;
        self.chunked.store(chunked, Ordering::Release);
    }
}

enum Phase {
    /// For a head.
    Waiting,
    /// hyper is given a request: so many bytes more, or all that come.
    Passing(Option<u64>),
    /// hyper has a request; whether the client is still there is looked for.
    Working(Absence),
    /// Nothing more is read.
    Ended,
}

pub(crate) struct Wire {
    stream: TcpStream,
    times: Times,
    phase: Phase,
    /// What came and was not passed on.
    buffer: BytesMut,
    /// How much of it was looked through for the head's end.
    seen: usize,
    /// When the head must be there.
    deadline: Pin<Box<Sleep>>,
    taking: Taking,
    is_1_1: bool,
    /// An answer has begun.
    has_written: bool,
    /// The last answer is with the kernel.
    flushed: bool,
    exchange: Arc<Exchange>,
    seat: Arc<Seat>,
    refusal: Option<Refusal>,
    cut: Option<&'static str>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, times: Times, seat: Arc<Seat>) -> Self {
        Self {
            stream,
            times,
            phase: Phase::Waiting,
            buffer: BytesMut::new(),
            seen: 0,
            deadline: Box::pin(sleep(times.idle)),
            taking: Taking::default(),
            is_1_1: true,
            has_written: false,
            flushed: false,
            exchange: Arc::default(),
            seat,
            refusal: None,
            cut: None,
        }
    }

    pub(crate) fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// Why the last head was refused, once.
    pub(crate) fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// Why the connection was cut without an answer.
    pub(crate) fn why_cut(&self) -> Option<&'static str> {
        self.cut
    }

    /// Waits for a whole head. False: none comes, because the client left, was silent, or was refused.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            self.skip_empty_lines();
            match head::examine(&self.buffer, self.seen) {
                Ok(Some(head)) => {
                    self.begin(&head);
                    return Poll::Ready(Ok(true));
                }
                Ok(None) => self.seen = self.buffer.len(),
                Err(refusal) => return Poll::Ready(Ok(self.refuse(refusal))),
            }
            if self.deadline.as_mut().poll_elapsed(cx) {
                let late = (!self.buffer.is_empty()).then(|| too_late(self.times.head));
                return Poll::Ready(Ok(match late {
                    Some(refusal) => self.refuse(refusal),
                    None => self.end(),
                }));
            }
            let was_empty = self.buffer.is_empty();
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(self.end()));
            }
            if was_empty {
                self.skip_empty_lines();
                if !self.buffer.is_empty() {
                    self.deadline
                        .as_mut()
                        .reset(Instant::now() + self.times.head);
                }
            }
        }
    }

    /// Lines between requests mean nothing (RFC 9112, section 2.2).
    fn skip_empty_lines(&mut self) {
        let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let empty = self.buffer.iter().take_while(is_line_end).count();
        if self.seen == 0 {
            self.buffer.advance(empty);
        }
    }

    fn begin(&mut self, head: &head::Head) {
        let body = match head.framing {
            Framing::Length(bytes) => Some(bytes),
            Framing::Chunked => None,
        };
        let bytes = u64::try_from(head.bytes).unwrap_or(u64::MAX);
        self.phase = Phase::Passing(body.map(|body| body.saturating_add(bytes)));
        (self.is_1_1, self.seen) = (head.is_1_1, 0);
        (self.has_written, self.flushed) = (false, false);
        self.exchange.begin(head.framing);
        self.seat.is_now(match body {
            Some(0) => Occupation::Working,
            _ => Occupation::Receiving,
        });
    }

    fn refuse(&mut self, refusal: Refusal) -> bool {
        self.refusal = Some(refusal);
        self.end()
    }

    fn end(&mut self) -> bool {
        self.phase = Phase::Ended;
        false
    }

    /// Reads what there is, up to the buffer's bound. 0: the client sends nothing more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == self.buffer.len() {
            let more = self.buffer.len().clamp(FIRST_BUFFER, MOST_BUFFERED);
            self.buffer.reserve(more);
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Gives hyper bytes of the request's. Nothing is given once `left` are.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        left: Option<u64>,
        to: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            self.buffer.reserve(MOST_BUFFERED);
            if ready!(self.poll_fill(cx))? == 0 {
                self.phase = Phase::Ended;
                return Poll::Ready(Ok(()));
            }
        }
        let most = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let bytes = self.buffer.len().min(to.remaining()).min(most);
        to.put_slice(&self.buffer[..bytes]);
        self.buffer.advance(bytes);
        let passed = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.phase = Phase::Passing(left.map(|left| left - passed));
        Poll::Ready(Ok(()))
    }

    /// Ready once the client is gone.
    fn poll_absent(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Phase::Working(absence) = &mut self.phase else {
            return Poll::Pending;
        };
        if !absence.is_suspected() {
            if self.buffer.len() < MOST_BUFFERED {
                match ready!(self.poll_fill(cx)) {
                    Ok(0) => {}
                    Ok(_) => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(error),
                }
            }
            // A client of HTTP/1.0 may have finished sending, and understands no interim response: its answer tells.
            if !self.is_1_1 {
                return Poll::Pending;
            }
            self.phase = Phase::Working(Absence::suspected());
        }
        let Phase::Working(absence) = &mut self.phase else {
            return Poll::Pending;
        };
        absence.poll_proven(cx, &self.stream, !self.has_written)
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.has_written |= matches!(self.phase, Phase::Working(_));
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return self.poll_stalled(cx),
            }
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    let bytes = written.as_ref().map_or(0, |&bytes| bytes as u64);
                    if self.taking.took(bytes) {
                        self.seat.is_now(Occupation::Working);
                    }
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.taking.is_stalled() {
            // Clients that take nothing must not keep others out.
            self.seat.is_now(Occupation::Waiting);
        }
        if self.taking.poll_late(cx, self.times.write) {
            self.cut = Some("write_timeout");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Writes a last answer and waits until the client has it: an end while it still sends would take the answer from it.
    pub(crate) async fn finish(mut self, answer: Option<Refusal>, patience: Duration) {
        self.seat.is_now(Occupation::Waiting);
        let end = async {
            if let Some(refusal) = answer {
                let mut bytes = refusal.wire_format();
                while bytes.has_remaining() {
                    self.stream.writable().await?;
                    match self.stream.try_write(&bytes) {
                        Ok(written) => bytes.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            SockRef::from(&self.stream).shutdown(Shutdown::Write)?;
            loop {
                self.buffer.clear();
                self.buffer.reserve(MOST_BUFFERED);
                self.stream.readable().await?;
                match self.stream.try_read_buf(&mut self.buffer) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        };
        // Whether the client waited for it is its own business.
        let _ended: Result<io::Result<()>, _> = tokio::time::timeout(patience, end).await;
    }
}

/// `Sleep` as a question.
trait PollElapsed {
    fn poll_elapsed(self, cx: &mut Context<'_>) -> bool;
}

impl PollElapsed for Pin<&mut Sleep> {
    fn poll_elapsed(self, cx: &mut Context<'_>) -> bool {
        std::future::Future::poll(self, cx).is_ready()
    }
}

fn too_late(time: Duration) -> Refusal {
    let message = format!(
        "the request's head was not complete within {} s",
        time.as_secs()
    );
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "head_timeout", message)
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        loop {
            match wire.phase {
                Phase::Waiting => {
                    if !ready!(wire.poll_head(cx))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Phase::Passing(left) => {
                    let received = wire.exchange.received.load(Ordering::Acquire);
                    if left != Some(0) && !(left.is_none() && received) {
                        return wire.poll_pass(cx, left, &mut to);
                    }
                    wire.seat.is_now(Occupation::Working);
                    wire.phase = Phase::Working(Absence::default());
                }
                Phase::Working(_) if wire.flushed => {
                    wire.phase = Phase::Waiting;
                    wire.deadline
                        .as_mut()
                        .reset(Instant::now() + wire.times.idle);
                    wire.seat.is_now(Occupation::Waiting);
                    if !wire.buffer.is_empty() {
                        wire.deadline
                            .as_mut()
                            .reset(Instant::now() + wire.times.head);
                    }
                }
                // The answer is on its way: what it meets tells whether the client is there.
                Phase::Working(_) if wire.exchange.answered.load(Ordering::Acquire) => {
                    return Poll::Pending;
                }
                Phase::Working(_) => return wire.poll_absent(cx).map(Err),
                Phase::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_written(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_written(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.flushed && wire.exchange.answered.load(Ordering::Acquire) {
            wire.flushed = true;
            // The next head may be read.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.stream).shutdown(Shutdown::Write))
    }
}
