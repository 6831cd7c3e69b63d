//! Probes and metrics over HTTP.

use crate::health::Health;
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Tells what a probe asks for.
type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// `/healthz`: the operator can go on. `/readyz`: it knows what it is to know and does what is to be done. What does not hold
/// is the answer's text.
pub fn probes(health: &Arc<Health>) -> Router {
    let (alive, ready) = (Arc::clone(health), Arc::clone(health));
    router(
        Arc::new(move || alive.alive()),
        Arc::new(move || ready.ready()),
    )
}

fn router(alive: Check, ready: Check) -> Router {
    Router::new()
        .route("/healthz", get(answer).with_state(alive))
        .route("/readyz", get(answer).with_state(ready))
}

async fn answer(State(check): State<Check>) -> Response {
    match check() {
        Ok(()) => "ok".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// `/metrics` in the OpenMetrics text format.
pub fn metrics(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(show))
        .with_state(metrics)
}

async fn show(State(metrics): State<Arc<Metrics>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves until `stop`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderMap, Request};
    use std::net::Ipv4Addr;
    use tower::ServiceExt;

    async fn get(router: Router, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (head.status, head.headers, text)
    }

    #[tokio::test]
    async fn a_probe_that_fails_says_why() {
        let ready: Check = Arc::new(|| Err("Pods in all namespaces: refused".to_owned()));
        let probes = router(Arc::new(|| Ok(())), ready);
        let (status, _, text) = get(probes.clone(), "/healthz").await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, "ok"));
        let (status, _, text) = get(probes.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "Pods in all namespaces: refused");
        let (status, ..) = get(probes, "/metrics").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn figures_are_in_the_openmetrics_format() {
        let figures = Arc::new(Metrics::new());
        figures.leads(true);
        let (status, headers, text) = get(metrics(figures), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        let kind = headers[header::CONTENT_TYPE].to_str().unwrap();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        assert!(text.contains("zimage_operator_leader 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn serving_ends_when_it_is_asked_to_and_fails_where_another_listens() {
        let stop = CancellationToken::new();
        stop.cancel();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        serve(free, Router::new(), stop.clone()).await.unwrap();
        let other = TcpListener::bind(free).await.unwrap();
        let taken = other.local_addr().unwrap();
        serve(taken, Router::new(), stop).await.unwrap_err();
    }
}
