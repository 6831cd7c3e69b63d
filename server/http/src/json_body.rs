//! A request's body: in time, within bounds, of the right kind.

use crate::error::ApiError;
use crate::outline::Outline;
use crate::quote::quote;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures::TryStreamExt;
use zimage_edge::body::{BodyLimits, Held, read as read_within};
use zimage_edge::{BoxError, Budget, Refusal};

/// Largest body, the gateway's own: an image of the largest size to start from and its mask, in base64.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// What a body may have beside image files.
const MAX_OTHERS: usize = 256 << 10;

/// Reads the bytes of a body that claims to be JSON. What image files do not account for is refused as it comes.
pub(crate) async fn read(budget: &Budget, head: &Parts, body: Body) -> Result<Held, ApiError> {
    check_kind(&head.headers)?;
    let mut outline = Outline::default();
    let checked = body
        .into_data_stream()
        .map_err(BoxError::from)
        .and_then(move |bytes| {
            let outcome = outline.follow(&bytes, MAX_OTHERS);
            let outcome = if outcome.is_break() {
                Err(too_much())
            } else {
                Ok(bytes)
            };
            std::future::ready(outcome)
        });
    let checked = Body::from_stream(checked);
    Ok(read_within(budget, head, checked, BodyLimits::of(MAX_BYTES)).await?)
}

fn too_much() -> BoxError {
    let message = format!(
        "the body has more than {MAX_OTHERS} bytes beside the image files in image, mask, control_image and references"
    );
    let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
    refusal.into()
}

/// A body without a type is refused: a browser sends such a one for any page, without asking.
fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], |kind| kind.as_bytes());
    let essence = kind.split(|byte| *byte == b';').next();
    if essence
        .unwrap_or_default()
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
    {
        return Ok(());
    }
    let message = format!(
        "the content type is application/json here, not {}",
        quote(&String::from_utf8_lossy(kind))
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
        .with_code("unsupported_media_type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::http::Request;
    use axum::response::IntoResponse;
    use zimage_edge::{BudgetOptions, Metrics};

    async fn outcome(kind: Option<&str>, body: impl Into<Body>) -> Result<Held, StatusCode> {
        let options = BudgetOptions {
            total: 256 << 20,
            client_parts: 1,
            largest: MAX_BYTES,
            answers: 0,
        };
        let budget = Budget::new(options, Metrics::default());
        let mut request = Request::post("/");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let (head, body) = request.body(body.into()).unwrap().into_parts();
        let read = read(&budget, &head, body).await;
        read.map_err(|error| error.into_response().status())
    }

    const JSON: Option<&str> = Some("application/json");

    #[tokio::test]
    async fn json_is_taken_with_its_parameters() {
        for kind in [JSON, Some("Application/JSON; charset=utf-8")] {
            let held = outcome(kind, "{}").await.ok().unwrap();
            assert_eq!(held.bytes, "{}", "{kind:?}");
        }
    }

    #[tokio::test]
    async fn another_type_and_none_are_refused() {
        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some(""),
            Some("application/jsonl"),
        ] {
            let status = outcome(kind, "{}").await.err();
            assert_eq!(status, Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let status = outcome(JSON, Body::from_stream(never)).await.err();
        assert_eq!(status, Some(StatusCode::REQUEST_TIMEOUT));
    }

    #[tokio::test]
    async fn only_image_files_make_a_body_large() {
        let of = |field: &str, bytes: usize| format!(r#"{{"{field}": "{}"}}"#, "a".repeat(bytes));
        assert!(outcome(JSON, of("image", 20 << 20)).await.is_ok());
        assert!(outcome(JSON, of("user", 200 << 10)).await.is_ok());
        // Endless: it is refused without waiting for its end.
        let endless = futures::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Bytes::from_static(&[b'['; 4096]))
        });
        let status = outcome(JSON, Body::from_stream(endless)).await.err();
        assert_eq!(status, Some(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
