//! The interface's figures.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

/// Requests by route and status.
#[derive(Clone)]
pub struct HttpMetrics {
    requests: Family<Labels, Counter>,
    duration: Family<Route, Histogram, fn() -> Histogram>,
    /// Connections, memory that is held, and what was not taken.
    pub(crate) edge: zimage_edge::Metrics,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let buckets = || Histogram::new(exponential_buckets(0.005, 2.0, 18));
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(buckets),
            edge: zimage_edge::Metrics::default(),
        }
    }
}

impl HttpMetrics {
    /// Shows every figure in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "zimage_http_requests",
            "Requests by route and status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "zimage_http_request_duration",
            "Time from the request's head to the answer's",
            Unit::Seconds,
            self.duration.clone(),
        );
        self.edge
            .register(registry.sub_registry_with_prefix("zimage_http"));
    }
}

/// Counts each request of a known route but probes, which are no traffic; other paths share one name, so that nobody can grow the list.
pub(crate) async fn count(
    State(metrics): State<HttpMetrics>,
    request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_owned();
    if matches!(route.as_str(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let began = Instant::now();
    let response = next.run(request).await;
    let seconds = began.elapsed().as_secs_f64();
    metrics
        .duration
        .get_or_create(&Route {
            route: route.clone(),
        })
        .observe(seconds);
    metrics
        .requests
        .get_or_create(&Labels {
            route,
            code: response.status().as_u16(),
        })
        .inc();
    response
}
