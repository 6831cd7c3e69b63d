//! An API server that a test plays.

use axum::body::{Body as Answer, Bytes};
use axum::http::{Method, Request, Response};
use futures::stream;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// The code of an answer whose body never ends: a watch in which nothing changes.
pub(crate) const OPEN: u16 = 1;
/// The code of an answer that never comes.
pub(crate) const SILENCE: u16 = 0;

/// What the API server is asked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Null where there is none.
    pub(crate) body: Value,
}

impl Call {
    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }
}

/// A client of an API server that answers with a status and a body.
pub(crate) fn client(answer: impl Fn(Call) -> (u16, Value) + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let (status, body) = answer(Call {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
            });
            if status == SILENCE {
                std::future::pending::<()>().await;
            }
            let (status, body) = match status {
                OPEN => (200, endless()),
                status => (status, Answer::from(body.to_string())),
            };
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(body).unwrap())
        }
    });
    Client::new(service, "default")
}

fn endless() -> Answer {
    Answer::from_stream(stream::pending::<Result<Bytes, Infallible>>())
}

/// The API server's refusal.
pub(crate) fn refusal(code: u16, message: &str) -> (u16, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    (code, body)
}

/// A list's answer.
pub(crate) fn list(items: &[Value]) -> (u16, Value) {
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": items});
    (200, body)
}
