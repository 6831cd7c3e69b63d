//! What clients see of a server that begins, serves and ends.

use super::*;
use crate::{HttpMetrics, Identity, api};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use zimage_core::executor::ExecutorError;
use zimage_core::fake::{Call, FakeExecutor};
use zimage_core::limits::Limits;
use zimage_core::variant::Variant;
use zimage_engine::{Engine, EngineMetrics, EngineOptions};

const PATIENCE: Duration = Duration::from_secs(30);
const ENDLESS: Duration = Duration::from_secs(24 * 3600);

struct Server {
    app: App,
    address: SocketAddr,
    metrics: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<io::Result<()>>,
}

/// A server whose executor does `before` before each call.
async fn start(
    lame_duck: Duration,
    before: impl FnMut(Call) -> Result<(), ExecutorError> + Send + 'static,
) -> Server {
    let identity = Identity {
        variant: Variant::Turbo,
        alias: None,
        tier: None,
    };
    let limits = Limits {
        max_steps: u32::MAX,
        max_cost: u32::MAX,
        ..Limits::default()
    };
    let app = App::new(identity, limits, ENDLESS, HttpMetrics::default());
    let mut registry = Registry::default();
    app.metrics.register(&mut registry);
    let figures = EngineMetrics::default();
    figures.register(&mut registry);
    // Without a queue, a request is answered or refused, whichever comes first: it never waits for another.
    let options = EngineOptions {
        max_batch_size: 1,
        max_queue_length: 0,
        ..EngineOptions::default()
    };
    let executor = Box::new(FakeExecutor::new(before));
    app.start_serving(Engine::start(vec![executor], options, figures).unwrap());

    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = Listeners {
        api: bind(any).await.unwrap(),
        metrics: bind(any).await.unwrap(),
    };
    let shutdown = Shutdown {
        lame_duck,
        drain: ENDLESS,
    };
    let stop = CancellationToken::new();
    Server {
        address: listeners.api.local_addr().unwrap(),
        metrics: listeners.metrics.local_addr().unwrap(),
        stop: stop.clone(),
        ended: tokio::spawn(serve_on(
            listeners,
            app.clone(),
            api(app.clone()),
            registry,
            shutdown,
            stop,
        )),
        app,
    }
}

/// An executor that waits at its first call until the sender of the second value is dropped; the first tells of it.
fn held() -> (
    mpsc::Receiver<Call>,
    mpsc::Sender<()>,
    impl FnMut(Call) -> Result<(), ExecutorError>,
) {
    let (report, reports) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let before = move |call| {
        // The test may have ended already.
        let _reported = report.send(call);
        let _released = released.recv();
        Ok(())
    };
    (reports, release, before)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

fn generation(steps: u32) -> String {
    let body = format!(r#"{{"prompt": "a fox", "size": "64x64", "num_inference_steps": {steps}}}"#);
    let length = body.len();
    format!(
        "POST /v1/images/generations HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The whole answer.
async fn ask(address: SocketAddr, request: String) -> String {
    let exchange = move || {
        let mut answer = String::new();
        send(address, &request).read_to_string(&mut answer).unwrap();
        answer
    };
    spawn_blocking(exchange).await.unwrap()
}

/// Asks again and again until the answer has `what`.
async fn until(address: SocketAddr, request: &str, what: &str) {
    let found = async {
        while !ask(address, request.to_owned()).await.contains(what) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    assert!(found.is_ok(), "{request:?} never had {what:?}");
}

#[tokio::test]
async fn a_leaving_server_says_so_and_still_serves() {
    let server = start(ENDLESS, |_| Ok(())).await;
    assert!(
        ask(server.address, get("/readyz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    server.stop.cancel();
    until(server.address, &get("/readyz"), "shutting down").await;
    assert!(
        ask(server.address, generation(1))
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn a_draining_server_answers_what_it_took_sends_others_away_and_ends() {
    let (calls, release, before) = held();
    let server = start(Duration::ZERO, before).await;
    let taken = tokio::spawn(ask(server.address, generation(1)));
    let began = spawn_blocking(move || calls.recv_timeout(PATIENCE).map(|call| (call, calls)));
    let (call, _calls) = began.await.unwrap().unwrap();
    assert_eq!(call, Call::Begin);
    server.stop.cancel();
    until(server.address, &get("/readyz"), "shutting down").await;
    let engine = server.app.engine().unwrap();
    until(server.address, &generation(1), "HTTP/1.1 503").await;
    let refused = ask(server.address, generation(1)).await;
    assert!(refused.contains("retry-after: 1"), "{refused}");
    assert!(!server.ended.is_finished() && !engine.has_failed());
    drop(release);
    let answer = taken.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let ended = tokio::time::timeout(PATIENCE, server.ended).await;
    assert!(ended.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_request() {
    let (report, reports) = mpsc::channel();
    let server = start(ENDLESS, move |call| {
        if call == Call::Begin {
            report.send(()).unwrap();
        }
        Ok(())
    })
    .await;
    let address = server.address;
    let left = spawn_blocking(move || {
        // More steps than anybody waits for.
        let client = send(address, &generation(u32::MAX));
        reports.recv_timeout(PATIENCE).unwrap();
        drop(client);
    });
    left.await.unwrap();
    let cancelled = r#"zimage_images_total{outcome="cancelled"} 1"#;
    until(server.metrics, &get("/metrics"), cancelled).await;
}

#[tokio::test]
async fn what_http_forbids_is_refused_counted_and_costs_the_next_client_nothing() {
    let server = start(ENDLESS, |_| Ok(())).await;
    let two_lengths = generation(1).replace("host", "content-length: 1\r\nhost");
    let foreign = generation(1).replace("host", "origin: https://evil\r\nhost");
    let untyped = generation(1).replace("content-type", "x-type");
    let large = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(1 << 20));
    for (request, status) in [
        (two_lengths, "400"),
        (foreign, "403"),
        (untyped, "415"),
        (large, "431"),
    ] {
        let answer = spawn_blocking(move || {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // A server that has refused the head may have closed the connection.
            let _sent = stream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            let _end = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        });
        let answer = answer.await.unwrap();
        assert_eq!(answer.get(9..12), Some(status), "{answer}");
        assert!(answer.contains("application/json"), "{answer}");
    }
    let answer = ask(server.address, generation(1)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let rejected = r#"zimage_http_rejected_total{reason="malformed_head",listener="api"} 1"#;
    until(server.metrics, &get("/metrics"), rejected).await;
}

#[tokio::test]
async fn what_the_listener_of_the_metrics_refuses_is_answered_and_counted_as_elsewhere() {
    let server = start(ENDLESS, |_| Ok(())).await;
    let missing = ask(server.metrics, get("/v1/models")).await;
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    assert!(missing.contains("unknown_url"), "{missing}");
    let malformed = ask(server.metrics, "SSH-2.0-x\r\n\r\n".to_owned()).await;
    assert!(malformed.starts_with("HTTP/1.1 400"), "{malformed}");
    for reason in ["unknown_url", "malformed_head"] {
        let line =
            format!(r#"zimage_http_rejected_total{{reason="{reason}",listener="metrics"}} 1"#);
        until(server.metrics, &get("/metrics"), &line).await;
    }
    let connections = r#"zimage_http_connections{listener="metrics"} 1"#;
    until(server.metrics, &get("/metrics"), connections).await;
}

#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let server = start(ENDLESS, |_| Ok(())).await;
    let halves = [
        "POST /v1/images/generations HTTP/1.1\r\nx: ",
        "POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 33554432\r\n\r\n",
    ];
    let connect = move || {
        let many = halves.iter().flat_map(|half| [*half; 200]);
        many.map(|half| send(server.address, half))
            .collect::<Vec<_>>()
    };
    let _silent = spawn_blocking(connect).await.unwrap();
    for _ in 0..10 {
        let answer = ask(server.address, generation(1)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = ask(server.address, get("/readyz")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}
