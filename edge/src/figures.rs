//! `/metrics`, and nothing else.

use crate::body::Body;
use crate::refusal::Refusal;
use crate::serve::{ResponseBody, Site, whole};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Shows a registry in the OpenMetrics text format.
pub struct Figures(pub Registry);

impl Site for Figures {
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        let is_asked = head.uri.path() == "/metrics" && head.method == Method::GET;
        is_asked.then(|| self.show())
    }

    fn check(&self, _: &Parts, _: SocketAddr) -> Result<(), Refusal> {
        Err(missing())
    }

    /// Never asked for: whatever is not there at once is refused.
    async fn answer(self: Arc<Self>, _: Request<Body>) -> Response<ResponseBody> {
        missing().into_response(true).map(whole)
    }
}

fn missing() -> Refusal {
    let message = "there is GET /metrics here";
    Refusal::new(StatusCode::NOT_FOUND, "unknown_url", message)
}

impl Figures {
    fn show(&self) -> Response<Full<Bytes>> {
        let mut text = String::new();
        let written = encode(&mut text, &self.0);
        openmetrics(written.map(|()| text))
    }
}

/// Figures in the OpenMetrics text format as an answer, or that they could not be written.
pub fn openmetrics(text: Result<String, fmt::Error>) -> Response<Full<Bytes>> {
    match text {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            let message = "the metrics cannot be written; the log says why";
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Refusal::new(status, "internal", message).into_response(false)
        }
    }
}
