//! What is said to a client whose request is not taken.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Most bytes of a message; the rest of it is cut.
const MOST_MESSAGE_BYTES: usize = 1 << 10;

/// A request that is not taken: one status, one reason in the metrics, one sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// Label of the metric, and `code` of OpenAI's error.
    pub reason: &'static str,
    /// What is wrong and what to do. Nothing of the request's body.
    pub message: Cow<'static, str>,
    /// When to come again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that another try does not mend.
    pub fn new(
        status: StatusCode,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A refusal that passes soon: 503, with a `Retry-After` that differs from client to client.
    pub fn overloaded(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after: Some(jittered()),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, message)
        }
    }

    /// OpenAI's error envelope.
    pub fn body(&self) -> Bytes {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        let message = cut(&self.message, MOST_MESSAGE_BYTES);
        let error = serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": self.reason}});
        Bytes::from(error.to_string())
    }

    /// The answer. The connection ends with it when what the client still sends is not read.
    pub fn into_response(self, closes: bool) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(time) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(time.as_secs().max(1)));
        }
        response
    }

    /// The answer as it goes over a connection that ends with it.
    pub(crate) fn wire_format(&self) -> Bytes {
        let body = self.body();
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let retry = self.retry_after.map_or(String::new(), |time| {
            format!("retry-after: {}\r\n", time.as_secs().max(1))
        });
        let head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-content-type-options: nosniff\r\ncache-control: no-store\r\n{retry}connection: close\r\n\r\n",
            self.status.as_u16(),
            body.len()
        );
        Bytes::from([head.as_bytes(), &body].concat())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// What looks into a body while it is read may refuse it: it ends the body with this.
impl std::error::Error for Refusal {}

/// One to three seconds, so that clients that were refused together do not come back together.
pub fn jittered() -> Duration {
    // A new state has new keys, which are random.
    Duration::from_secs(1 + RandomState::new().hash_one(0_u8) % 3)
}

/// The beginning of a text, in whole characters.
pub fn cut(text: &str, most_bytes: usize) -> &str {
    let mut end = most_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_openais_and_says_when_to_come_again() {
        let refusal = Refusal::overloaded("memory", "no \"room\"");
        let text = String::from_utf8(refusal.wire_format().to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains("retry-after: ") && head.contains("connection: close"));
        assert!(head.contains("nosniff") && head.contains("no-store"));
        assert_eq!(body["error"]["code"], "memory");
        assert_eq!(body["error"]["type"], "server_error");
        assert_eq!(body["error"]["message"], "no \"room\"");
    }

    #[test]
    fn a_message_is_never_longer_than_a_kibibyte() {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "x", "ö".repeat(1 << 20));
        assert!(refusal.body().len() < 2 << 10);
    }

    #[test]
    fn clients_come_back_at_different_times() {
        let times: std::collections::BTreeSet<_> = (0..200).map(|_| jittered()).collect();
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| (1..=3).contains(&time.as_secs())));
    }
}
