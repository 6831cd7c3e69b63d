//! Whether a client that sends nothing more is still there.
//!
//! A client that has closed its connection and one that has only finished sending look the same: both send a FIN. They
//! differ in what they do with bytes that come: the first one's kernel answers them with a reset. So the client is sent an
//! interim answer, `100 Continue`, which every client of HTTP/1.1 skips (RFC 9110, section 15.2), and again from time to
//! time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Nothing is suspected at first.
#[derive(Default)]
pub(super) struct Absence(Option<Suspicion>);

struct Suspicion {
    next: Pin<Box<Sleep>>,
    pause: Duration,
}

impl Absence {
    /// The client sends nothing more.
    pub(super) fn suspected() -> Self {
        Self(Some(Suspicion {
            next: Box::pin(sleep(Duration::ZERO)),
            pause: FIRST_PAUSE,
        }))
    }

    pub(super) fn is_suspected(&self) -> bool {
        self.0.is_some()
    }

    /// Ready once the connection is known to be closed. `may_probe`: no byte of the answer was sent yet.
    pub(super) fn poll_proven(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        may_probe: bool,
    ) -> Poll<io::Error> {
        let Some(suspicion) = &mut self.0 else {
            return Poll::Pending;
        };
        while suspicion.next.as_mut().poll(cx).is_ready() {
            if let Err(error) = probe(stream, may_probe) {
                return Poll::Ready(error);
            }
            suspicion
                .next
                .as_mut()
                .reset(Instant::now() + suspicion.pause);
            suspicion.pause = (suspicion.pause * 2).min(LONGEST_PAUSE);
        }
        Poll::Pending
    }
}

fn probe(stream: &TcpStream, may_write: bool) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    if !may_write {
        return Ok(());
    }
    match stream.try_write(PROBE) {
        Ok(written) if written == PROBE.len() => Ok(()),
        // Half an interim answer would spoil the real one.
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}
