//! Errors in OpenAI's envelope (<https://platform.openai.com/docs/guides/error-codes>).

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;
use zimage_core::executor::ExecutorError;
use zimage_core::limits::InvalidRequest;
use zimage_edge::Refusal;
use zimage_engine::SubmitError;

/// Characters of a message. It may quote what the client sent, of any length.
const LONGEST_MESSAGE: usize = 1000;
/// Characters of a field's name, as unknown ones are told.
const LONGEST_NAME: usize = 100;

/// What a 429 or a 503 is about, where it is not the whole server's state. For gateways.
const REFUSED: HeaderName = HeaderName::from_static("x-zimage-refused");

/// The value of `x-zimage-refused`.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// Another request may be taken now: the gateway must not think worse of this server.
    Request,
    /// The device was lost while it worked on this request, which may be why: another server may be, too.
    DeviceLost,
}

impl Refused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::DeviceLost => "device-lost",
        }
    }
}

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
    refused: Option<Refused>,
    /// Counted and logged where it arose.
    told: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self {
            status,
            message,
            param: None,
            code: None,
            retry_after: None,
            refused: None,
            told: false,
        }
    }

    /// A fault of one field of the request.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
            .with_code("invalid_value")
            .with_param(param)
    }

    /// A field that has no meaning here.
    pub(crate) fn unknown(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(param, message).with_code("unknown_parameter")
    }

    /// A fault of the server. The log has its cause; the client gets nothing of it.
    pub(crate) fn internal(task: &'static str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "failed to {task}");
        let message = "the server failed to answer this request; its log says why under the answer's x-request-id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).with_code("internal_error")
    }

    /// No memory for this request now.
    pub(crate) fn overloaded() -> Self {
        let message = "as many requests are held as the memory allows; try again soon";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .with_code("overloaded")
            .with_retry_after(zimage_edge::jittered())
            .of_this_request()
    }

    /// Counts and logs a request that was not taken, unless that was done where it was found. The message is left out: it
    /// may quote the client.
    pub(crate) fn tell(&self, client: Option<IpAddr>, metrics: &zimage_edge::Metrics) {
        if self.told || self.status == StatusCode::INTERNAL_SERVER_ERROR {
            return;
        }
        let reason = self.code.unwrap_or("refused");
        metrics.reject(client, &Refusal::new(self.status, reason, reason));
    }

    fn with_param(mut self, param: &str) -> Self {
        self.param = Some(param.chars().take(LONGEST_NAME).collect());
        self
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn with_retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// The cause lies in what was asked for: another request may be taken now.
    pub(crate) fn of_this_request(mut self) -> Self {
        self.refused = Some(Refused::Request);
        self
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = json!({
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        });
        let mut response = (self.status, Json(json!({"error": error}))).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(refused) = self.refused {
            headers.insert(REFUSED, HeaderValue::from_static(refused.as_str()));
        }
        if let Some(time) = self.retry_after {
            // Whole seconds, never 0: that would mean "at once". Nobody is sent away for more than a minute.
            let seconds = time.as_secs_f64().ceil().clamp(1.0, 60.0) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The edge has counted and logged it.
impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(refusal.status, refusal.message.into_owned());
        Self {
            // 429 and 503 of the edge are about one body's memory.
            refused: refusal.retry_after.map(|_| Refused::Request),
            retry_after: refusal.retry_after,
            told: true,
            ..error.with_code(refusal.reason)
        }
    }
}

impl From<InvalidRequest> for ApiError {
    fn from(error: InvalidRequest) -> Self {
        Self::invalid(error.field, error.message)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::QueueFull {
                retry_after,
                for_all,
            } => Self {
                refused: (!for_all).then_some(Refused::Request),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
                    .with_code("queue_full")
                    .with_retry_after(retry_after)
            },
            // A gateway passes it on: another tier may hold as many. There is no use in coming here again.
            SubmitError::TooMany { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_code("too_many_images")
                .with_param("n")
                .of_this_request(),
            SubmitError::Draining | SubmitError::Stuck | SubmitError::Failed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                    .with_code("unavailable")
                    .with_retry_after(Duration::from_secs(1))
            }
        }
    }
}

impl From<ExecutorError> for ApiError {
    fn from(error: ExecutorError) -> Self {
        let (message, refused) = match error {
            ExecutorError::InvalidRequest { field, message } => {
                return Self::invalid(field, message);
            }
            ExecutorError::Failed(cause) => return Self::internal("make an image", &cause),
            ExecutorError::OutOfMemory(cause) => {
                tracing::warn!(cause, "no memory on the device for an image");
                let message = "the device has no memory free for this request";
                (message, Some(Refused::Request))
            }
            ExecutorError::DeviceLost(cause) => {
                tracing::warn!(cause, "the device failed while it made an image");
                let message =
                    "the device failed while it worked on this request; the server starts again";
                (message, Some(Refused::DeviceLost))
            }
            // As if it had not been taken.
            ExecutorError::NotBegun(_) => return SubmitError::Failed.into(),
        };
        // Another pod, or this one later, can make the image.
        Self {
            refused,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_code("unavailable")
                .with_retry_after(Duration::from_secs(1))
        }
    }
}
