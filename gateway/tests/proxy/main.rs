//! The proxy between real connections: clients on one side, pods on the other, a topology set by hand.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod access_log;
mod blast_radius;
mod clients;
mod dead_pods;
mod full_pods;
mod liars;
mod pods;
mod raw;
mod retries;
mod stage;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use pods::{dying, dying_later, listen, nobody, pod, refusing};
use serde_json::json;
use stage::{Answer, BOUNDS, Gateway, gateway, topology};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use zimage_gateway::proxy::Bounds;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_split_as_the_weights_say() {
    let gateway = gateway(&[pod("primary").await], &[pod("fallback").await]).await;
    let primary = AtomicUsize::new(0);
    let client = async || {
        for _ in 0..250 {
            if gateway.post("{}").await.headers["x-zimage-tier"] == "primary" {
                primary.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    tokio::join!(client(), client(), client(), client());
    assert_eq!(primary.into_inner(), 900);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_pods_of_both_tiers_take_turns() {
    let (a, b, c, d) = (
        pod("a").await,
        pod("b").await,
        pod("c").await,
        pod("d").await,
    );
    let gateway = gateway(&[a, b], &[c, d]).await;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..100 {
        let name = gateway.post("{}").await.body["pod"]
            .as_str()
            .unwrap()
            .to_owned();
        *counts.entry(name).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [45, 45, 5, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_without_a_length_take_the_memory_that_they_need() {
    let bounds = Bounds {
        max_buffered_bytes: 256 << 10,
        ..BOUNDS
    };
    let gateway = Gateway::start(topology(&[pod("a").await], &[]), bounds).await;
    let unannounced =
        || futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1 << 10])));
    let send = || gateway.post(reqwest::Body::wrap_stream(unannounced()));
    let answers = futures::future::join_all((0..8).map(|_| send())).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_cannot_take_a_request_passes_it_on() {
    let well = pod("fallback").await;
    for ill in [
        nobody().await,
        dying().await,
        refusing(StatusCode::BAD_GATEWAY, "1").await,
        refusing(StatusCode::SERVICE_UNAVAILABLE, "1").await,
        refusing(StatusCode::TOO_MANY_REQUESTS, "1").await,
    ] {
        let gateway = gateway(&[ill], &[well]).await;
        for _ in 0..3 {
            let answer = gateway.post("{}").await;
            assert_eq!(
                (answer.status, &answer.body["pod"]),
                (StatusCode::OK, &json!("fallback"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_cut_on_a_used_connection_is_asked_elsewhere_and_counted() {
    let gateway = gateway(&[dying_later("primary").await], &[pod("fallback").await]).await;
    let answer = gateway.post("{}").await;
    assert_eq!(answer.body["pod"], json!("primary"));
    let answer = gateway.post("{}").await;
    assert_eq!(answer.body["pod"], json!("fallback"));
    let line = "zimage_gateway_passed_on_total{tier=\"primary\",reason=\"reset\"}";
    assert_eq!(gateway.figure(line), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_attempt_sends_the_whole_body_again() {
    let gateway = gateway(&[dying().await], &[pod("fallback").await]).await;
    let body: Vec<u8> = (0..150_000_u32).map(|at| (at % 251) as u8).collect();
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    let answer = gateway.post(body).await;
    assert_eq!(
        (&answer.body["bytes"], &answer.body["sum"]),
        (&json!(150_000), &json!(sum))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_the_pods_own_fault_is_not_asked_for_again() {
    let gateway = gateway(
        &[refusing(StatusCode::INTERNAL_SERVER_ERROR, "1").await],
        &[pod("fallback").await],
    )
    .await;
    assert_eq!(
        gateway.post("{}").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queues_everywhere_say_when_to_come_again() {
    let full = async |seconds| refusing(StatusCode::TOO_MANY_REQUESTS, seconds).await;
    let gateway = gateway(&[full("3").await], &[full("7").await]).await;
    let answer = gateway.post("{}").await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::TOO_MANY_REQUESTS, &json!("queue_full"))
    );
    // The shorter of the two, and a moment more.
    let wait: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((3..=4).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_pod_the_answer_comes_at_once() {
    let gateway = gateway(&[], &[]).await;
    let answer = gateway.post("{}").await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"))
    );
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_topology_counts_for_the_next_request() {
    let (old, new) = (pod("old").await, pod("new").await);
    let gateway = gateway(&[old], &[]).await;
    assert_eq!(gateway.post("{}").await.body["pod"], "old");
    gateway
        .learned
        .send_replace(Some(Arc::new(topology(&[new], &[]))));
    assert_eq!(gateway.post("{}").await.body["pod"], "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_of_a_request_pins_its_tier() {
    let gateway = gateway(&[pod("primary").await], &[pod("fallback").await]).await;
    for _ in 0..12 {
        assert_eq!(
            gateway.post(r#"{"model": "z-image"}"#).await.body["pod"],
            "fallback"
        );
        assert_eq!(
            gateway.post(r#"{"model": "z-image-turbo"}"#).await.body["pod"],
            "primary"
        );
    }
    assert_eq!(
        gateway.post(r#"{"model": "fox"}"#).await.status,
        StatusCode::OK
    );
    let answer = gateway.post(r#"{"model": "dall-e-3"}"#).await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::NOT_FOUND, &json!("model_not_found"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_answers_for_itself() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    let models = gateway.get("/v1/models").await.body;
    let names: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["fox", "z-image-turbo", "z-image"]);
    assert_eq!(gateway.get("/readyz").await.status, StatusCode::OK);
    assert_eq!(gateway.get("/metrics").await.code(), "unknown_url");
    let wrong = gateway.get("/v1/images/generations").await;
    assert_eq!(
        (wrong.status, wrong.code()),
        (
            StatusCode::METHOD_NOT_ALLOWED,
            &json!("method_not_supported")
        )
    );
    assert_eq!(wrong.headers["allow"], "POST");
    gateway.learned.send_replace(None);
    assert_eq!(
        gateway.get("/readyz").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    let answer = gateway.post(vec![b'x'; 300 << 10]).await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"))
    );
    let unannounced =
        futures::stream::iter((0..300).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1 << 10])));
    let answer = gateway.post(reqwest::Body::wrap_stream(unannounced)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_takes_its_time_at_the_most() {
    let forever =
        listen(Router::new().route("/v1/images/generations", post(std::future::pending::<()>)))
            .await;
    let bounds = Bounds {
        request_timeout: Duration::from_millis(300),
        ..BOUNDS
    };
    let gateway = Gateway::start(topology(&[forever], &[]), bounds).await;
    let answer = gateway.post("{}").await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::GATEWAY_TIMEOUT, &json!("timeout"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_request_from_the_pod() {
    let (begun, mut seen) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Receiver<()>>(1);
    // The body is read, as a pod reads it: hyper looks for a closed connection only after that.
    let answer = move |_: axum::body::Bytes| {
        let begun = begun.clone();
        async move {
            // Dropped with the handler, which axum drops with the connection.
            let (_alive, dead) = tokio::sync::oneshot::channel::<()>();
            begun.send(dead).await.unwrap();
            std::future::pending::<()>().await;
        }
    };
    let slow = listen(Router::new().route("/v1/images/generations", post(answer))).await;
    let gateway = gateway(&[slow], &[]).await;
    let request = tokio::spawn(
        gateway
            .http
            .post(gateway.url("/v1/images/generations"))
            .body("{}")
            .send(),
    );
    let dead = seen.recv().await.unwrap();
    request.abort();
    tokio::time::timeout(Duration::from_secs(10), dead)
        .await
        .unwrap()
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_see_the_clients_address_and_the_requests_id() {
    let gateway = gateway(&[pod("primary").await], &[]).await;
    let url = gateway.url("/v1/images/generations");
    let sent = gateway
        .http
        .post(url)
        .header("x-request-id", "abc-1")
        .body("{}")
        .send()
        .await
        .unwrap();
    let body = Answer::of(sent).await.body;
    assert_eq!(
        (&body["request_id"], &body["forwarded_for"]),
        (&json!("abc-1"), &json!("127.0.0.1"))
    );
    let url = gateway.url("/v1/images/generations");
    let sent = gateway
        .http
        .post(url)
        .header("x-forwarded-for", "10.9.8.7")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(
        Answer::of(sent).await.body["forwarded_for"],
        "10.9.8.7, 127.0.0.1"
    );
    let own = gateway.post("{}").await.body["request_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(own.len(), 36);
}
