//! Listens, and ends without losing a request.

use crate::app::App;
use axum::Router;
use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{Request, Response};
use futures::FutureExt;
use http_body_util::{BodyExt, Full};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use zimage_edge::{Body, Bounds, Figures, Policy, Refusal, ResponseBody, Site, Stop, Times};

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// API and probes.
    pub api: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
}

/// How the server ends.
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// Time for which it still takes requests while it says that it is not ready: gateways learn that it leaves.
    pub lame_duck: Duration,
    /// Time that running requests get after that.
    pub drain: Duration,
}

/// Connections to /metrics.
const SCRAPERS: usize = 64;
/// Time for answers that are on their way when everything is computed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves `api` and the registry's figures until `stop`, then drains `app`'s engine.
///
/// # Errors
/// When an address cannot be bound.
pub async fn serve(
    app: App,
    api: Router,
    registry: Registry,
    addresses: Addresses,
    shutdown: Shutdown,
    stop: CancellationToken,
) -> io::Result<()> {
    let listeners = Listeners {
        api: bind(addresses.api).await?,
        metrics: bind(addresses.metrics).await?,
    };
    tracing::info!(api = %addresses.api, metrics = %addresses.metrics, "listening");
    serve_on(listeners, app, api, registry, shutdown, stop).await
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("failed to listen on {address}: {error}"),
        )
    };
    TcpListener::bind(address).await.map_err(named)
}

struct Listeners {
    api: TcpListener,
    metrics: TcpListener,
}

async fn serve_on(
    listeners: Listeners,
    app: App,
    api: Router,
    registry: Registry,
    shutdown: Shutdown,
    stop: CancellationToken,
) -> io::Result<()> {
    let ends = Stop::default();
    let edge = app.metrics.edge.clone();
    let bounds = |connections| Bounds {
        connections,
        times: Times::default(),
    };
    let site = Arc::new(Api {
        router: api,
        policy: app.intake.policy.clone(),
    });
    let most = bounds(app.intake.connections);
    let requests = zimage_edge::serve(listeners.api, site, most, edge, ends.clone());
    let figures = zimage_edge::serve(
        listeners.metrics,
        Arc::new(Figures(registry)),
        bounds(SCRAPERS),
        app.metrics.edge.of("metrics"),
        Stop::default(),
    );
    let end = async {
        stop.cancelled().await;
        drain(&app, shutdown, &ends).await;
        ends.closed.cancel();
        // A client that keeps its connection open does not keep the process.
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        outcome = requests => outcome,
        outcome = figures => outcome,
        () = end => Ok(()),
    }
}

/// Waits until it is known that the server leaves, and then for the engine's last image. Meanwhile what still comes is
/// answered: a gateway passes on what is answered 503.
async fn drain(app: &App, shutdown: Shutdown, ends: &Stop) {
    let Some(engine) = app.leave() else { return };
    ends.leaving.cancel();
    tracing::info!(
        seconds = shutdown.lame_duck.as_secs(),
        "leaving: still serving until that is known"
    );
    // A lost device has nothing to drain.
    tokio::select! {
        () = tokio::time::sleep(shutdown.lame_duck) => {}
        _ = engine.failed() => return,
    }
    tracing::info!(seconds = shutdown.drain.as_secs(), "draining");
    if tokio::time::timeout(shutdown.drain, engine.drain())
        .await
        .is_err()
    {
        tracing::warn!("the drain's time is over; requests that still run are lost");
    }
}

/// The API behind the edge.
struct Api {
    router: Router,
    policy: Policy,
}

impl Site for Api {
    /// A probe's handler waits for nothing: it is asked once, on the edge's own thread.
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        if !matches!(head.uri.path(), "/healthz" | "/readyz") {
            return None;
        }
        let request = Request::from_parts(head.clone(), axum::body::Body::empty());
        let answer = self.router.clone().oneshot(request).now_or_never()?;
        let (head, body) = answer.unwrap_or_else(|never| match never {}).into_parts();
        let body = body.collect().now_or_never()?.ok()?.to_bytes();
        Some(Response::from_parts(head, Full::new(body)))
    }

    fn check(&self, head: &Parts, _: SocketAddr) -> Result<(), Refusal> {
        self.policy.check(head)
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<ResponseBody> {
        let request = request.map(axum::body::Body::new);
        let answer: Result<_, Infallible> = self.router.clone().oneshot(request).await;
        let answer = answer.unwrap_or_else(|never| match never {});
        answer.map(|body| body.map_err(Into::into).boxed_unsync())
    }
}

#[cfg(test)]
mod tests;
