//! Connections to pods: dialled, kept while idle, asked for a sign of life.

use crate::upstream::payload::Payload;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

pub(crate) mod payload;

/// Time in which a pod must take a connection: it is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A small request whose bytes the pod's machine does not acknowledge did not arrive. The machine acknowledges them
/// whatever its processes do, and they fit into the socket's buffer there. The kernel counts from its first repetition: in
/// all it is about 0.7 s.
const SMALL_UNACKNOWLEDGED: Duration = Duration::from_millis(250);
/// The same of a large request, which the pod may let wait.
const LARGE_UNACKNOWLEDGED: Duration = Duration::from_secs(25);
/// Time for which an unused connection is kept; servers keep theirs longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Unused connections that are kept for one pod.
const MOST_IDLE: usize = 32;
/// Bounds of an answer's head.
const MOST_HEAD_BYTES: usize = 32 << 10;
const MOST_HEADERS: usize = 100;
/// Bytes of an answer that are read ahead of the client.
const MOST_READ_AHEAD: usize = 64 << 10;
/// Time for a sign of life.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
/// A body up to this size is sent together with its head.
pub(crate) const SMALL: usize = 64 << 10;
/// A new connection to an idle one is as good as the one it replaces for this long.
const READY_TIMEOUT: Duration = Duration::from_millis(20);

/// A connection that can take a request.
pub(crate) type Connection = SendRequest<Payload>;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Requests up to [`SMALL`]: kept for the next one.
    Small,
    /// One larger request.
    Large,
}

/// Unused connections of one pod, the latest last.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<(Connection, Instant)>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection.
    pub(crate) fn keep(&self, connection: Connection) {
        let mut idle = self.lock();
        if idle.len() < MOST_IDLE && !connection.is_closed() {
            idle.push((connection, Instant::now()));
        }
    }

    /// One that can take a request.
    pub(crate) async fn take(&self) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.lock().pop()?;
            if since.elapsed() > IDLE_TIMEOUT {
                continue;
            }
            // Its last answer may not be off its hands yet.
            if let Ok(Ok(())) = timeout(READY_TIMEOUT, connection.ready()).await {
                return Some(connection);
            }
        }
    }

    /// Closes those that were not used for long.
    pub(crate) fn prune(&self) {
        self.lock().retain(|(connection, since)| {
            !connection.is_closed() && since.elapsed() <= IDLE_TIMEOUT
        });
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

async fn dial(address: SocketAddr, class: Class) -> io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    match class {
        // No keepalive: with so short a time the kernel would give a pod that computes up for one packet that was lost.
        // While an answer is waited for, probes see a machine that is gone; in the middle of one, its halt does.
        Class::Small => socket.set_tcp_user_timeout(Some(SMALL_UNACKNOWLEDGED))?,
        Class::Large => {
            let keepalive = TcpKeepalive::new()
                .with_time(Duration::from_secs(10))
                .with_interval(Duration::from_secs(5));
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(LARGE_UNACKNOWLEDGED))?;
        }
    }
    let (connection, work) = Builder::new()
        .max_header_size(MOST_HEAD_BYTES)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_READ_AHEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends with the connection: when the other side closes it, and when nobody can use it any more.
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, pod = %address, "a connection ended");
        }
    });
    Ok(connection)
}

/// Dials for [`CONNECT_TIMEOUT`] at most.
pub(crate) async fn dial_in_time(address: SocketAddr, class: Class) -> io::Result<Connection> {
    timeout(CONNECT_TIMEOUT, dial(address, class))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether the pod's process answers anything: its probe, which costs it nothing.
pub(crate) async fn is_alive(address: SocketAddr) -> bool {
    let ask = async {
        let mut connection = dial(address, Class::Small).await.ok()?;
        let probe = payload::probe(address);
        connection.send_request(probe).await.ok()
    };
    matches!(timeout(PROBE_TIMEOUT, ask).await, Ok(Some(_)))
}
