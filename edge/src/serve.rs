//! Accepts connections and lets hyper speak on them, on a thread of its own: nothing that a request costs delays a probe.

use crate::body::{Body, BoxError, Client};
use crate::head;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::seats::{Seat, Seats};
use crate::wire::{Exchange, Times, Wire};
use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// An answer's body.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long a connection is kept for the client to read its last answer.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Connections beyond the bound, for heads that are answered at once: probes come through whatever all the others do.
const SPARE: usize = 16;
/// Bytes that the kernel holds of an answer beyond what the client has room for.
const UNSENT: u32 = 64 << 10;
/// Pauses after a connection could not be accepted, as when files have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// What hyper may buffer of a request and of an answer: a whole head.
const HYPER_BUFFER: usize = 2 * head::MOST_BYTES;
/// Tells a machine that is gone from a client that waits: three probes, five seconds apart, after ten of silence.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(10))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);

/// What is served.
pub trait Site: Send + Sync + 'static {
    /// An answer that needs nothing but the head, given at once on the edge's thread: probes and metrics. Must not block.
    fn at_once(&self, _head: &Parts) -> Option<Response<Full<Bytes>>> {
        None
    }

    /// Whether a request is taken, by its head alone, before its body.
    ///
    /// # Errors
    /// The answer, if it is not.
    fn check(&self, _head: &Parts, _client: SocketAddr) -> Result<(), Refusal> {
        Ok(())
    }

    /// Answers on the caller's runtime. The future is dropped when the client goes away.
    fn answer(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Times of each.
    pub times: Times,
}

/// How a listener ends.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Connections end after their request from now on.
    pub leaving: CancellationToken,
    /// No connection and no request is taken from now on; those in work are finished.
    pub closed: CancellationToken,
}

struct Edge<S> {
    site: Arc<S>,
    bounds: Bounds,
    seats: Seats,
    spare: Seats,
    metrics: Metrics,
    workers: Handle,
    stop: Stop,
}

/// Serves until `stop` is closed and the last request is answered, or until it is dropped.
///
/// # Errors
/// When the listener or the thread cannot be used.
pub async fn serve<S: Site>(
    listener: TcpListener,
    site: Arc<S>,
    bounds: Bounds,
    metrics: Metrics,
    stop: Stop,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    let edge = Arc::new(Edge {
        site,
        bounds,
        seats: Seats::new(bounds.connections, metrics.clone()),
        spare: Seats::new(SPARE, metrics.clone()),
        metrics,
        workers: Handle::current(),
        stop,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let abandoned = CancellationToken::new();
    let _abandons = abandoned.clone().drop_guard();
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("edge".to_owned())
        .spawn(move || {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = accept(listener, edge) => outcome,
                    () = abandoned.cancelled() => Ok(()),
                }
            });
            // Nobody may be waiting any more.
            let _heard = ended.send(outcome);
        })?;
    end.await
        .unwrap_or_else(|_| Err(io::Error::other("the edge's thread failed")))
}

async fn accept<S: Site>(listener: std::net::TcpListener, edge: Arc<Edge<S>>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = edge.stop.closed.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => match edge.place(client.ip()) {
                Some((seat, welcome)) => {
                    let guest = Guest {
                        client,
                        seat: Arc::new(seat),
                        welcome,
                    };
                    connections.spawn(connection(Arc::clone(&edge), stream, guest));
                }
                None => edge.turn_away(&stream, client),
            },
            Err(error) => {
                edge.metrics.failed_to_accept(&error);
                // Files have run out: one that is idle is given back.
                edge.seats.evict();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Which requests of a connection are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Welcome {
    /// All.
    Any,
    /// Those that are answered at once: every connection works.
    AtOnce,
}

/// A client with a connection.
struct Guest {
    client: SocketAddr,
    seat: Arc<Seat>,
    welcome: Welcome,
}

async fn connection<S: Site>(edge: Arc<Edge<S>>, stream: TcpStream, guest: Guest) {
    if let Err(error) = set_options(&stream, edge.bounds.times.write) {
        tracing::debug!(%error, "an option of a connection could not be set");
    }
    let (client, evicted) = (guest.client.ip(), guest.seat.evicted().clone());
    tokio::select! {
        biased;
        () = evicted.cancelled() => edge.metrics.cut(client, "evicted"),
        () = edge.converse(stream, guest) => {}
    }
}

fn set_options(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(user_timeout))
}

impl<S: Site> Edge<S> {
    fn place(&self, client: IpAddr) -> Option<(Seat, Welcome)> {
        let seat = self.seats.take(client).map(|seat| (seat, Welcome::Any));
        seat.or_else(|| Some((self.spare.take(client)?, Welcome::AtOnce)))
    }

    /// Every connection works: the new one is told so.
    fn turn_away(&self, stream: &TcpStream, client: SocketAddr) {
        let refusal = no_place();
        self.metrics.reject(Some(client.ip()), &refusal);
        // A new connection's buffer has room for it.
        if let Err(error) = stream.try_write(&refusal.wire_format()) {
            tracing::debug!(%error, "a client that is turned away was not told");
        }
    }

    async fn converse(&self, stream: TcpStream, guest: Guest) {
        let client = guest.client;
        let mut wire = Wire::new(stream, self.bounds.times, Arc::clone(&guest.seat));
        // hyper's buffers are made once there is a request.
        let begun = tokio::select! {
            begun = poll_fn(|cx| wire.poll_head(cx)) => begun,
            () = self.stop.closed.cancelled() => return,
        };
        match begun {
            Ok(true) => {}
            Ok(false) => return self.end(wire, client).await,
            Err(_) => return,
        }
        let exchange = wire.exchange();
        let service = service_fn(|request| {
            let answer = self.answer(request, &guest, &exchange);
            Box::pin(answer) as Pin<Box<dyn Future<Output = _> + Send + '_>>
        });
        let mut conversation = http1::Builder::new()
            .half_close(false)
            .max_buf_size(HYPER_BUFFER)
            .header_read_timeout(None)
            .serve_connection(wire, service);
        let ended = tokio::select! {
            ended = poll_fn(|cx| conversation.poll_without_shutdown(cx)) => ended,
            () = self.stop.closed.cancelled() => {
                Pin::new(&mut conversation).graceful_shutdown();
                poll_fn(|cx| conversation.poll_without_shutdown(cx)).await
            }
        };
        let wire = conversation.into_parts().io;
        if let Err(error) = ended {
            tracing::debug!(%error, %client, "a connection ended early");
        }
        self.end(wire, client).await;
    }

    async fn end(&self, mut wire: Wire, client: SocketAddr) {
        if let Some(reason) = wire.why_cut() {
            return self.metrics.cut(client.ip(), reason);
        }
        let refusal = wire.take_refusal();
        if let Some(refusal) = &refusal {
            self.metrics.reject(Some(client.ip()), refusal);
        }
        wire.finish(refusal, LAST_WORDS).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        guest: &Guest,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Answer>, Infallible> {
        let (mut head, body) = request.into_parts();
        let client = guest.client;
        head.extensions.insert(Client(client));
        let mut response = if let Some(answer) = self.site.at_once(&head) {
            answer.map(whole)
        } else if guest.welcome == Welcome::AtOnce {
            let refusal = no_place();
            self.metrics.reject(Some(client.ip()), &refusal);
            refusal.into_response(true).map(whole)
        } else if let Err(refusal) = self.site.check(&head, client) {
            self.metrics.reject(Some(client.ip()), &refusal);
            refusal.into_response(false).map(whole)
        } else {
            let body = Body {
                inner: body,
                exchange: Arc::clone(exchange),
                seat: Arc::clone(&guest.seat),
            };
            let answer = Arc::clone(&self.site).answer(Request::from_parts(head, body));
            let task = self.workers.spawn(answer);
            AbortOnDropHandle::new(task).await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request's handler failed");
                failed().into_response(true).map(whole)
            })
        };
        if exchange.has_chunks() || self.stop.leaving.is_cancelled() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        let exchange = Arc::clone(exchange);
        Ok(response.map(|body| Answer { body, exchange }))
    }
}

/// A body that is there at once.
pub fn whole(body: Full<Bytes>) -> ResponseBody {
    body.map_err(|never| match never {}).boxed_unsync()
}

fn no_place() -> Refusal {
    let message = "there are as many connections as can be served; try again soon";
    Refusal::overloaded("connections", message)
}

fn failed() -> Refusal {
    let message = "the request failed; the log says why";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

/// Tells the connection when hyper has all of it.
struct Answer {
    body: ResponseBody,
    exchange: Arc<Exchange>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchange.is_answered();
    }
}
