//! Clients that announce, stall, flood, leave or say too much: what they get, and what the others notice.

use crate::pods::{listen, pod, refusing};
use crate::stage::{BOUNDS, Gateway, gateway, topology};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::json;
use socket2::SockRef;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use zimage_gateway::proxy::Bounds;

const PATIENCE: Duration = Duration::from_secs(60);
const HEAD: &str =
    "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";

async fn connect(gateway: &Gateway, bytes: &str) -> TcpStream {
    let address = gateway.url("").replace("http://", "");
    let mut client = TcpStream::connect(address).await.unwrap();
    // A gateway that refuses may have closed the connection.
    let _sent = client.write_all(bytes.as_bytes()).await;
    client
}

async fn rest(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut bytes)).await;
    let _end = read.expect("the connection does not end");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn request(body: &str) -> String {
    format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_every_pod_is_full_a_head_is_enough_to_be_told_so() {
    let full = refusing(StatusCode::TOO_MANY_REQUESTS, "50").await;
    let gateway = gateway(&[full], &[]).await;
    let answer = gateway.post("{}").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let announced = format!("{HEAD}Content-Length: {}\r\n\r\n", BOUNDS.max_body_bytes);
    let answer = rest(&mut connect(&gateway, &announced).await).await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains("queue_full"),
        "{answer}"
    );
}

/// A pod that answers once it may.
async fn patient() -> (std::net::SocketAddr, Arc<Semaphore>) {
    let may = Arc::new(Semaphore::new(0));
    let allowed = Arc::clone(&may);
    let answer = move |_: axum::body::Bytes| async move {
        allowed.acquire().await.unwrap().forget();
        "{}"
    };
    let router = Router::new().route("/v1/images/generations", post(answer));
    (listen(router).await, may)
}

async fn shows(gateway: &Gateway, line: &str) {
    let shown = || gateway.figures().lines().any(|shown| shown == line);
    until(gateway, line, shown).await;
}

async fn until(gateway: &Gateway, what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, waits).await;
    assert!(outcome.is_ok(), "no {what} in {}", gateway.figures());
}

fn figure(gateway: &Gateway, name: &str) -> usize {
    let figures = gateway.figures();
    let value = figures.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_bodies_take_no_room_from_others() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    let announced = format!("{HEAD}Content-Length: {}\r\n\r\n", BOUNDS.max_body_bytes);
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(connect(&gateway, &announced).await);
    }
    for _ in 0..50 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    shows(
        &gateway,
        "zimage_gateway_rejected_total{reason=\"body_timeout\",listener=\"api\"} 400",
    )
    .await;
    assert!(rest(&mut silent[0]).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_that_wait_for_pods_leave_room_for_small_ones() {
    let (slow, may) = patient().await;
    let bounds = Bounds {
        max_buffered_bytes: 1 << 20,
        ..BOUNDS
    };
    let gateway = Gateway::start(topology(&[slow], &[]), bounds).await;
    let large = "x".repeat(BOUNDS.max_body_bytes);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(connect(&gateway, &request(&large)).await);
    }
    // At most four have room; whoever finds none is told so within a second.
    let refused = || {
        figure(
            &gateway,
            "zimage_gateway_rejected_total{reason=\"overloaded\",listener=\"api\"}",
        )
    };
    let waiting = || figure(&gateway, "zimage_gateway_requests_in_flight");
    let settled = || (6..10).contains(&refused()) && refused() + waiting() == 10;
    until(&gateway, "room for some and none for others", settled).await;
    let large = waiting();
    let small = tokio::spawn({
        let url = gateway.url("/v1/images/generations");
        gateway.http.post(url).body("{}").send()
    });
    until(&gateway, "small request beside the large ones", || {
        waiting() == large + 1
    })
    .await;
    may.add_permits(5);
    assert_eq!(small.await.unwrap().unwrap().status(), StatusCode::OK);
    shows(&gateway, "zimage_gateway_buffered_bytes 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_model_is_never_quoted_at_length() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    for length in [100, 1 << 10, 150 << 10] {
        let body = format!("{{\"model\": \"{}\"}}", "\x7f".repeat(length));
        let url = gateway.url("/v1/images/generations");
        let answer = gateway.http.post(url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        let text = answer.text().await.unwrap();
        assert!(text.len() < 4 << 10, "{} bytes", text.len());
    }
    let answer = gateway.get(&format!("/{}", "a".repeat(7_000))).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.body.to_string().len() < 1 << 10, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_or_a_body_of_no_type_is_refused() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    let untyped = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    let answer = rest(&mut connect(&gateway, untyped).await).await;
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
    let foreign =
        format!("{HEAD}Origin: https://evil\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
    let answer = rest(&mut connect(&gateway, &foreign).await).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_a_request_does_not_end_it() {
    for after in ["\r\n".to_owned(), request("{}")] {
        let (slow, may) = patient().await;
        let gateway = gateway(&[slow], &[]).await;
        let mut client = connect(&gateway, &request("{}")).await;
        shows(&gateway, "zimage_gateway_requests_in_flight 1").await;
        client.write_all(after.as_bytes()).await.unwrap();
        SockRef::from(&client).shutdown(Shutdown::Write).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        may.add_permits(2);
        let answer = rest(&mut client).await;
        let expected = 1 + usize::from(after.len() > 2);
        assert_eq!(answer.matches("HTTP/1.1 200").count(), expected, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_left_is_counted_as_that_and_held_no_longer() {
    let (slow, _never) = patient().await;
    let gateway = gateway(&[slow], &[]).await;
    let client = connect(&gateway, &request("{}")).await;
    shows(&gateway, "zimage_gateway_requests_in_flight 1").await;
    drop(client);
    shows(&gateway, "zimage_gateway_requests_in_flight 0").await;
    shows(&gateway, "zimage_gateway_buffered_bytes 0").await;
    let figures = gateway.figures();
    assert!(figures.contains("code=\"499\"} 1"), "{figures}");
    assert!(!figures.contains("code=\"0\""), "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_not_requests() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(gateway.get(path).await.status, StatusCode::OK);
    }
    let figures = gateway.figures();
    assert!(
        !figures.contains("zimage_gateway_requests_total{"),
        "{figures}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_leaves_is_not_ready_and_takes_no_more_once_it_is_closed() {
    let (slow, may) = patient().await;
    let gateway = gateway(&[slow], &[]).await;
    let mut client = connect(&gateway, &request("{}")).await;
    shows(&gateway, "zimage_gateway_requests_in_flight 1").await;
    gateway.stop.leaving.cancel();
    let answer = gateway.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.body, json!("the gateway is shutting down"));
    gateway.stop.closed.cancel();
    may.add_permits(1);
    let answer = rest(&mut client).await;
    assert!(
        answer.contains("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    let address = gateway.url("").replace("http://", "");
    let closed = async { while TcpStream::connect(&address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_that_they_are_json_and_not_to_be_kept() {
    let gateway = gateway(&[], &[]).await;
    let answer = gateway.post("{}").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["cache-control"], "no-store");
}
