//! Probes and metrics over HTTP, on threads of their own: what the operator does delays neither, and clients who hold
//! connections keep nobody out.

use crate::health::Health;
use crate::metrics::Metrics;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zimage_crds::contract::{HEALTHZ_PATH, METRICS_PATH, READYZ_PATH};
use zimage_edge::{Body, Bounds, Refusal, ResponseBody, Site, Stop, Times, openmetrics, whole};

/// Connections at a time: the kubelet's, and those of a few that collect metrics.
const CONNECTIONS: usize = 64;

/// `/healthz`: the operator can go on. `/readyz`: it knows what it is to know and does what is to be done. What does not hold
/// is the answer's text.
pub struct Probes(pub Arc<Health>);

/// `/metrics` in the OpenMetrics text format.
pub struct Figures(pub Arc<Metrics>);

impl Site for Probes {
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        let holds = match asked(head)? {
            HEALTHZ_PATH => self.0.alive(),
            READYZ_PATH => self.0.ready(),
            _ => return None,
        };
        Some(told(holds))
    }

    async fn answer(self: Arc<Self>, _: Request<Body>) -> Response<ResponseBody> {
        missing("there are GET /healthz and GET /readyz here")
    }
}

impl Site for Figures {
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        (asked(head)? == METRICS_PATH).then(|| openmetrics(self.0.text()))
    }

    async fn answer(self: Arc<Self>, _: Request<Body>) -> Response<ResponseBody> {
        missing("there is GET /metrics here")
    }
}

/// The path of what is read.
fn asked(head: &Parts) -> Option<&str> {
    (head.method == Method::GET || head.method == Method::HEAD).then(|| head.uri.path())
}

fn told(holds: Result<(), String>) -> Response<Full<Bytes>> {
    let (status, text) = match holds {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn missing(what: &'static str) -> Response<ResponseBody> {
    let refusal = Refusal::new(StatusCode::NOT_FOUND, "unknown_url", what);
    refusal.into_response(true).map(whole)
}

/// Serves until `stop`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    site: impl Site,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let bounds = Bounds {
        connections: CONNECTIONS,
        times: Times::default(),
    };
    let stop = Stop {
        leaving: stop.clone(),
        closed: stop,
    };
    let metrics = zimage_edge::Metrics::default();
    zimage_edge::serve(listener, Arc::new(site), bounds, metrics, stop).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::Lead;
    use http::header;
    use http_body_util::BodyExt;
    use std::net::Ipv4Addr;

    async fn get(site: &impl Site, path: &str) -> Option<(StatusCode, String, String)> {
        let (head, ()) = Request::get(path).body(()).unwrap().into_parts();
        let (head, body) = site.at_once(&head)?.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        Some((head.status, kind, String::from_utf8(body.to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn a_probe_that_fails_says_why() {
        let response = told(Err("Pods in all namespaces: refused".to_owned()));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "Pods in all namespaces: refused");
        let probes = Probes(Arc::new(Health::new(Vec::new(), Lead::default())));
        let (status, _, text) = get(&probes, "/healthz").await.unwrap();
        assert_eq!((status, text.as_str()), (StatusCode::OK, "ok"));
        assert!(get(&probes, "/readyz").await.is_some());
        assert!(get(&probes, "/metrics").await.is_none());
    }

    #[tokio::test]
    async fn figures_are_in_the_openmetrics_format() {
        let figures = Arc::new(Metrics::new());
        figures.leads(true);
        let (status, kind, text) = get(&Figures(figures), "/metrics").await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        assert!(text.contains("zimage_operator_leader 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn serving_ends_when_it_is_asked_to_and_fails_where_another_listens() {
        let site = || Figures(Arc::new(Metrics::new()));
        let stop = CancellationToken::new();
        stop.cancel();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        serve(free, site(), stop.clone()).await.unwrap();
        let other = TcpListener::bind(free).await.unwrap();
        let taken = other.local_addr().unwrap();
        serve(taken, site(), stop).await.unwrap_err();
    }
}
