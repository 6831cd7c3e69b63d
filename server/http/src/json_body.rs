//! A request's body: in time, within bounds, of the right kind.

use crate::error::ApiError;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use std::time::Duration;

/// Largest body, the gateway's own: an image of the largest size to start from and its mask, in base64.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// Time that a client gets to send its body.
const TIME: Duration = Duration::from_secs(30);

/// The bytes of a body that claims to be JSON.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read(request, TIME).await
    }
}

async fn read(request: Request, time: Duration) -> Result<JsonBody, ApiError> {
    check_kind(request.headers())?;
    match tokio::time::timeout(time, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(JsonBody(bytes)),
        Ok(Err(rejection)) => Err(unread(&rejection)),
        Err(_) => {
            let message = format!("the body did not arrive within {} s", time.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).with_code("timeout"))
        }
    }
}

/// A body without a type is taken for what it must be.
fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = kind.as_bytes().split(|byte| *byte == b';').next();
    if essence
        .unwrap_or_default()
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
    {
        return Ok(());
    }
    let message = format!(
        "the content type is application/json here, not {}",
        String::from_utf8_lossy(kind.as_bytes())
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
        .with_code("unsupported_media_type"))
}

fn unread(rejection: &BytesRejection) -> ApiError {
    let status = rejection.status();
    let message = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body is larger than {MAX_BYTES} bytes"),
        _ => "the body could not be read".to_owned(),
    };
    ApiError::new(status, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::response::IntoResponse;

    async fn outcome(kind: Option<&str>, body: Body) -> Result<JsonBody, StatusCode> {
        let mut request = Request::post("/");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(body).unwrap();
        let read = read(request, Duration::from_millis(1)).await;
        read.map_err(|error| error.into_response().status())
    }

    #[tokio::test]
    async fn json_is_taken_with_its_parameters_and_without_a_type() {
        for kind in [
            None,
            Some("application/json"),
            Some("Application/JSON; charset=utf-8"),
        ] {
            assert_eq!(
                outcome(kind, "{}".into()).await.unwrap().0,
                "{}",
                "{kind:?}"
            );
        }
    }

    #[tokio::test]
    async fn another_type_is_refused() {
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "application/jsonl",
        ] {
            let status = outcome(Some(kind), "{}".into()).await.unwrap_err();
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let status = outcome(None, Body::from_stream(never)).await.unwrap_err();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    }
}
