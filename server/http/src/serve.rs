//! Listens, and ends without losing a request.

use crate::app::App;
use crate::routes::metrics_router;
use axum::Router;
use axum::serve::ListenerExt;
use prometheus_client::registry::Registry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
    let closed = CancellationToken::new();
    // An answer's last bytes do not wait for the acknowledgement of the ones before.
    let api_listener = listeners.api.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
    });
    let requests =
        axum::serve(api_listener, api).with_graceful_shutdown(closed.clone().cancelled_owned());
    let figures = axum::serve(listeners.metrics, metrics_router(Arc::new(registry)))
        .with_graceful_shutdown(closed.clone().cancelled_owned());
    let end = async {
        stop.cancelled().await;
        drain(&app, shutdown).await;
        closed.cancel();
        // A client that keeps its connection open does not keep the process.
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        outcome = async { tokio::try_join!(requests, figures) } => outcome.map(|_| ()),
        () = end => Ok(()),
    }
}

async fn drain(app: &App, shutdown: Shutdown) {
    let Some(engine) = app.leave() else { return };
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

#[cfg(test)]
mod tests;
