//! `x-request-id`: the client's, or one of our own; in the log line and in the answer.

use crate::quote::cut;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

const HEADER: &str = "x-request-id";
const MOST_CHARACTERS: usize = 128;

/// Gives the request an id and writes one log line about it. The body is never logged.
pub(crate) async fn log(request: Request, next: Next) -> Response {
    let id = accepted(request.headers().get(HEADER)).unwrap_or_else(own);
    let (method, path) = asked(&request);
    let began = Instant::now();
    // Whatever is logged meanwhile carries the id.
    let span = tracing::error_span!("request", request_id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    let status = response.status().as_u16();
    let seconds = began.elapsed().as_secs_f64();
    let request_id = id.to_str().unwrap_or_default();
    if path.starts_with("/v1/") {
        tracing::info!(method, path, status, seconds, request_id, "request");
    } else {
        tracing::debug!(method, path, status, seconds, request_id, "request");
    }
    response.headers_mut().insert(HEADER, id);
    response
}

/// The method and the path, as they may stand in a log line: a client may send any of up to 16 KiB.
fn asked(request: &Request) -> (String, String) {
    (cut(request.method().as_str()), cut(request.uri().path()))
}

/// An id that is short and prints.
fn accepted(id: Option<&HeaderValue>) -> Option<HeaderValue> {
    let id = id?;
    let prints = id.as_bytes().iter().all(u8::is_ascii_graphic);
    (prints && !id.is_empty() && id.len() <= MOST_CHARACTERS).then(|| id.clone())
}

fn own() -> HeaderValue {
    let id = Uuid::new_v4().to_string();
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_short_whatever_is_asked_for() {
        let request = |method: &str, path: &str| {
            let request = axum::http::Request::builder().method(method).uri(path);
            asked(&request.body(axum::body::Body::empty()).unwrap())
        };
        let plain = request("POST", "/v1/images/generations");
        assert_eq!(plain, ("POST".into(), "/v1/images/generations".into()));
        let long = "X".repeat(15 << 10);
        let (method, path) = request(&long, &format!("/v1/{long}"));
        assert!(method.len() <= 103 && path.len() <= 103, "{method} {path}");
    }
}
