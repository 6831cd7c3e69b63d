//! Errors in OpenAI's envelope (<https://platform.openai.com/docs/guides/error-codes>).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::time::Duration;
use zimage_core::executor::ExecutorError;
use zimage_core::limits::InvalidRequest;
use zimage_engine::SubmitError;

/// Characters of a message. It may quote what the client sent, of any length.
const LONGEST_MESSAGE: usize = 1000;
/// Characters of a field's name, as unknown ones are told.
const LONGEST_NAME: usize = 100;

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
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
        if let Some(time) = self.retry_after {
            // Whole seconds, never 0: that would mean "at once".
            let seconds = time.as_secs_f64().ceil().max(1.0) as u64;
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
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
            SubmitError::QueueFull { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message)
                    .with_code("queue_full")
                    .with_retry_after(retry_after)
            }
            // A gateway passes it on: another tier may hold as many. There is no use in coming here again.
            SubmitError::TooMany { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_code("too_many_images")
                .with_param("n"),
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
        if !matches!(error, ExecutorError::InvalidRequest { .. }) {
            tracing::warn!(%error, "failed to make an image");
        }
        let message = error.to_string();
        match error {
            ExecutorError::InvalidRequest { field, message } => Self::invalid(field, message),
            // Another pod, or this one later, can make the image.
            ExecutorError::OutOfMemory(_) | ExecutorError::DeviceLost(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                    .with_code("unavailable")
                    .with_retry_after(Duration::from_secs(1))
            }
            ExecutorError::Failed(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}
