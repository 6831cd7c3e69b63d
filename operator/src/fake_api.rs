//! An API server that a test plays.

use axum::http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// What the API server is asked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Null where there is none.
    pub(crate) body: Value,
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
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
            });
            let response = Response::builder().status(status);
            let body = Body::from(body.to_string().into_bytes());
            Ok::<_, Infallible>(response.body(body).unwrap())
        }
    });
    Client::new(service, "default")
}

/// The API server's refusal.
pub(crate) fn refusal(code: u16, message: &str) -> (u16, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": code});
    (code, body)
}
