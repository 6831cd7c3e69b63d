//! Pods as a gateway may meet them.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A pod that answers every request with its name, and what it saw.
pub(crate) async fn pod(name: &'static str) -> SocketAddr {
    let answer = move |headers: HeaderMap, body: Bytes| async move {
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let seen = json!({"pod": name, "bytes": body.len(), "sum": body.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
            "request_id": header("x-request-id"), "forwarded_for": header("x-forwarded-for")});
        ([("x-zimage-tier", name)], seen.to_string())
    };
    listen(Router::new().route("/v1/images/generations", post(answer))).await
}

/// A pod that answers every request with a status.
pub(crate) async fn refusing(status: StatusCode, retry_after: &'static str) -> SocketAddr {
    let answer =
        move || async move { (status, [("retry-after", retry_after)], "no").into_response() };
    listen(Router::new().route("/v1/images/generations", post(answer))).await
}

pub(crate) async fn listen(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A pod that dies with the request in its hands.
pub(crate) async fn dying() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut some = [0; 64];
            // Whatever was read: the connection is closed now.
            let _read = connection.read(&mut some).await;
        }
    });
    address
}

/// A pod that answers one request, whose body is `{}`, with its name, and dies with the next one on the same connection
/// in its hands.
pub(crate) async fn dying_later(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        // Before the connection ends: whoever then dials again is refused, and not taken and cut.
        drop(listener);
        let (mut request, mut some) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"{}") {
            let read = connection.read(&mut some).await.unwrap();
            request.extend_from_slice(&some[..read]);
        }
        let body = json!({"pod": name}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        connection
            .write_all((head + &body).as_bytes())
            .await
            .unwrap();
        let _second = connection.read(&mut some).await;
    });
    address
}

/// An address where nothing listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}
