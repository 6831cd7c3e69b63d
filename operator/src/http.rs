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

    fn check(&self, _: &Parts, _: SocketAddr) -> Result<(), Refusal> {
        Err(missing("there are GET /healthz and GET /readyz here"))
    }

    /// Never asked for: whatever is not there at once is refused.
    async fn answer(self: Arc<Self>, _: Request<Body>) -> Response<ResponseBody> {
        missing("").into_response(true).map(whole)
    }
}

impl Site for Figures {
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        (asked(head)? == METRICS_PATH).then(|| openmetrics(self.0.text()))
    }

    fn check(&self, _: &Parts, _: SocketAddr) -> Result<(), Refusal> {
        Err(missing("there is GET /metrics here"))
    }

    /// Never asked for: whatever is not there at once is refused.
    async fn answer(self: Arc<Self>, _: Request<Body>) -> Response<ResponseBody> {
        missing("").into_response(true).map(whole)
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

fn missing(what: &'static str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_url", what)
}

/// Serves until `stop`, and counts in `metrics` who comes and who is refused.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    site: impl Site,
    metrics: zimage_edge::Metrics,
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
    zimage_edge::serve(listener, Arc::new(site), bounds, metrics, stop).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::Lead;
    use http::header;
    use http_body_util::BodyExt;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let edge = zimage_edge::Metrics::default;
        let stop = CancellationToken::new();
        stop.cancel();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        serve(free, site(), edge(), stop.clone()).await.unwrap();
        let other = TcpListener::bind(free).await.unwrap();
        let taken = other.local_addr().unwrap();
        serve(taken, site(), edge(), stop).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_and_counted_by_the_listener() {
        let metrics = Arc::new(Metrics::new());
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address = TcpListener::bind(free).await.unwrap().local_addr().unwrap();
        let (site, edge) = (Figures(Arc::clone(&metrics)), metrics.edge.of("metrics"));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(address, site, edge, stop.clone()));
        let mut answer = String::new();
        let mut client = loop {
            assert!(!serving.is_finished(), "another took the port");
            match tokio::net::TcpStream::connect(address).await {
                Ok(client) => break client,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = b"GET /secrets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let line = "zimage_operator_rejected_total{reason=\"unknown_url\",listener=\"metrics\"} 1";
        let text = metrics.text().unwrap();
        assert!(text.contains(line), "{text}");
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
