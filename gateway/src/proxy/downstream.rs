//! The client's side of a request.

use super::{End, Record};
use crate::envelope::Answer;
use http::{Method, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use uuid::Uuid;

pub(super) const REQUEST_ID: &str = "x-request-id";
const MOST_ID_BYTES: usize = 128;

/// The client's id when it is short and prints, otherwise a new one.
pub(super) fn request_id(session: &ServerSession) -> String {
    let given = session
        .get_header(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let decent = |id: &&str| {
        !id.is_empty()
            && id.len() <= MOST_ID_BYTES
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given
        .filter(decent)
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Sends an answer of the gateway's own.
pub(super) async fn answer(
    session: &mut ServerSession,
    answer: Answer,
    record: &mut Record,
) -> End {
    record.status = answer.status.as_u16();
    match send(session, &answer, record).await {
        Ok(()) => End::Answered,
        Err(error) => {
            tracing::debug!(%error, "the client went away");
            End::Broken
        }
    }
}

async fn send(
    session: &mut ServerSession,
    answer: &Answer,
    record: &Record,
) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(5))?;
    head.insert_header(header::CONTENT_TYPE, answer.content_type)?;
    head.insert_header(header::CONTENT_LENGTH, answer.body.len())?;
    head.insert_header(REQUEST_ID, record.request_id.as_str())?;
    if let Some(methods) = answer.allow {
        head.insert_header(header::ALLOW, methods)?;
    }
    if let Some(time) = answer.retry_after {
        head.insert_header(header::RETRY_AFTER, time.as_secs().max(1))?;
    }
    if answer.is_final {
        head.insert_header("x-should-retry", "false")?;
    }
    let has_body = session.req_header().method != Method::HEAD;
    session.write_response_header(Box::new(head)).await?;
    if has_body {
        session
            .write_response_body(answer.body.clone(), true)
            .await?;
    }
    Ok(())
}
