//! The request's body, held as a whole: any attempt can send it again.

use crate::envelope::Answer;
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use pingora::protocols::http::ServerSession;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Time that a client gets to send its body.
const TIME: Duration = Duration::from_secs(60);
/// Bodies are counted in units of this size.
const UNIT: usize = 1024;

/// The memory for bodies.
pub(super) struct Bodies {
    max_body_bytes: usize,
    units: Arc<Semaphore>,
}

/// A complete body. Its memory is given back when it is dropped.
pub(super) struct Body {
    bytes: Bytes,
    model: Option<String>,
    _memory: OwnedSemaphorePermit,
}

/// Why there is no body.
pub(super) enum Refused {
    /// The client went away or sent nonsense.
    Broken,
    /// To be told.
    Answer(Answer),
}

#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

impl Bodies {
    pub(super) fn new(max_body_bytes: usize, max_buffered_bytes: usize) -> Self {
        let units = (max_buffered_bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            max_body_bytes,
            units: Arc::new(Semaphore::new(units)),
        }
    }

    /// Reads the whole body.
    pub(super) async fn read(&self, session: &mut ServerSession) -> Result<Body, Refused> {
        let late = |_| {
            let message = format!("the body did not arrive within {} s", TIME.as_secs());
            let answer = Answer::error(StatusCode::REQUEST_TIMEOUT, "timeout", &message);
            Refused::Answer(answer)
        };
        tokio::time::timeout(TIME, self.read_in_time(session))
            .await
            .map_err(late)?
    }

    async fn read_in_time(&self, session: &mut ServerSession) -> Result<Body, Refused> {
        let head = session.req_header();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let announced: usize = header(header::CONTENT_LENGTH)
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        if announced > self.max_body_bytes {
            return Err(self.too_large());
        }
        let expects =
            header(header::EXPECT).is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        let mut memory = self.reserve(announced)?;
        if expects {
            session
                .write_continue_response()
                .await
                .map_err(|_| Refused::Broken)?;
        }
        let mut bytes = BytesMut::with_capacity(announced);
        while let Some(chunk) = session
            .read_request_body()
            .await
            .map_err(|_| Refused::Broken)?
        {
            let length = bytes.len() + chunk.len();
            if length > self.max_body_bytes {
                return Err(self.too_large());
            }
            // A body without an announced length grows as it comes.
            memory.merge(self.reserve(length.saturating_sub(memory.num_permits() * UNIT))?);
            bytes.extend_from_slice(&chunk);
        }
        // A body without a readable model goes to any tier; the server says what is wrong with it.
        let model = serde_json::from_slice::<Named>(&bytes)
            .ok()
            .and_then(|named| named.model);
        Ok(Body {
            bytes: bytes.freeze(),
            model,
            _memory: memory,
        })
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        Arc::clone(&self.units)
            .try_acquire_many_owned(units)
            .map_err(|_| {
                let message = "the gateway holds as many requests as its memory allows";
                let answer = Answer::error(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
                Refused::Answer(answer.retry_after(Duration::from_secs(1)))
            })
    }

    fn too_large(&self) -> Refused {
        let message = format!("the body is larger than {} bytes", self.max_body_bytes);
        Refused::Answer(Answer::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            &message,
        ))
    }
}

impl Body {
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The model that the request names.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}
