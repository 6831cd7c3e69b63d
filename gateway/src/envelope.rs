//! Answers of the gateway's own: OpenAI's error envelope and its list of models.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use std::time::Duration;
use zimage_edge::cut;

/// Most bytes of a client's text in an answer.
const MOST_QUOTED: usize = 100;
/// Most bytes of a path in an answer or in the log.
pub(crate) const MOST_OF_PATH: usize = 256;

/// A complete answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    /// The methods that a path takes, where it was asked with another.
    pub(crate) allow: Option<&'static str>,
    /// Whether clients are told not to send the same request again (`x-should-retry`, which OpenAI's SDKs obey).
    pub(crate) is_final: bool,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(status: StatusCode, text: &'static str) -> Self {
        let body = Bytes::from_static(text.as_bytes());
        Self {
            status,
            retry_after: None,
            allow: None,
            is_final: false,
            content_type: "text/plain; charset=utf-8",
            body,
        }
    }

    fn json(status: StatusCode, value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        Self {
            status,
            retry_after: None,
            allow: None,
            is_final: false,
            content_type: "application/json",
            body,
        }
    }

    /// An error, as OpenAI's clients read it.
    pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        Self::json(
            status,
            &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}),
        )
    }

    pub(crate) fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    pub(crate) fn final_word(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// A path was asked with a method that it does not take.
    pub(crate) fn method_not_allowed(path: &str, method: &Method, allow: &'static str) -> Self {
        let method = cut(method.as_str(), MOST_QUOTED);
        let message = format!("{path} does not take {method}; it takes {allow}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut answer = Self::error(status, "method_not_supported", &message);
        answer.allow = Some(allow);
        answer
    }

    /// There is no such path.
    pub(crate) fn unknown_path(path: &str) -> Self {
        let path = cut(path, MOST_OF_PATH);
        let message =
            format!("there is no {path}; there are POST /v1/images/generations and GET /v1/models");
        Self::error(StatusCode::NOT_FOUND, "unknown_url", &message)
    }

    /// The answer as it is sent.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(time) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(time.as_secs().max(1)));
        }
        if self.is_final {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }

    pub(crate) fn models(names: &[&str]) -> Self {
        let model =
            |id: &&str| json!({"id": id, "object": "model", "created": 0, "owned_by": "zimage"});
        let data: Vec<_> = names.iter().map(model).collect();
        Self::json(StatusCode::OK, &json!({"object": "list", "data": data}))
    }
}
