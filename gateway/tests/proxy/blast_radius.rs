//! How many pods one request reaches, and what its body costs.

use crate::raw::{Does, Raw, addresses, posts, status};
use crate::stage::gateway;
use axum::http::StatusCode;
use serde_json::json;
use std::time::Instant;

const POISON: &str = "zimage_gateway_poison_total";

async fn pods(does: Does) -> (Vec<Raw>, Vec<Raw>) {
    (
        Raw::several(4, does.clone()).await,
        Raw::several(2, does).await,
    )
}

/// A 503 with another line in its head.
fn unavailable(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 503 No\r\nretry-after: 1\r\n{line}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

fn counts(pods: &[&[Raw]]) -> Vec<usize> {
    pods.concat().iter().map(Raw::posts).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_its_pod_reaches_two_pods() {
    let (primary, fallback) = pods(Does::Die).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    let answer = gateway.post(r#"{"prompt": "poison"}"#).await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::BAD_GATEWAY, &json!("request_lost"))
    );
    let counts = counts(&[&primary, &fallback]);
    assert_eq!(counts.iter().sum::<usize>(), 2, "{counts:?}");
    assert!(counts.iter().all(|posts| *posts <= 1), "{counts:?}");
    assert_eq!(gateway.figure(POISON), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cost_two_pods_is_refused_when_its_client_sends_it_again() {
    let (primary, fallback) = pods(Does::Die).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    gateway.post(r#"{"prompt": "poison"}"#).await;
    for pod in primary.iter().chain(&fallback) {
        pod.now(Does::Answer);
    }
    let before = posts(&primary) + posts(&fallback);
    for _ in 0..5 {
        let again = gateway.post(r#"{"prompt": "poison"}"#).await;
        assert_eq!(
            (again.status, again.code()),
            (StatusCode::INTERNAL_SERVER_ERROR, &json!("request_refused"))
        );
        assert_eq!(again.headers["x-should-retry"], "false");
    }
    assert_eq!(posts(&primary) + posts(&fallback), before);
    assert_eq!(gateway.figure(POISON), 6.0);
    let other = gateway.post(r#"{"prompt": "a fox"}"#).await;
    assert_eq!(other.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_used_connections_it_reaches_two_pods_as_well() {
    let (primary, fallback) = pods(Does::Answer).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    for _ in 0..20 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    for pod in primary.iter().chain(&fallback) {
        pod.now(Does::Die);
    }
    let before = counts(&[&primary, &fallback]);
    gateway.post(r#"{"prompt": "poison"}"#).await;
    let after = counts(&[&primary, &fallback]);
    let reached: Vec<_> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    assert_eq!(reached.iter().sum::<usize>(), 2, "{reached:?}");
    assert!(reached.iter().all(|posts| *posts <= 1), "{reached:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_503_after_the_work_reaches_two_pods() {
    let fault =
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\nno";
    let (primary, fallback) = pods(Does::SayAndStay(fault.to_vec())).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    let answer = gateway.post("{}").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(posts(&primary) + posts(&fallback) <= 3);
    let bodies = primary.iter().chain(&fallback).map(Raw::body_bytes);
    assert_eq!(bodies.sum::<usize>(), 4, "two bodies of two bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_costs_pods_their_devices_reaches_two_and_is_refused_when_it_comes_again() {
    let (primary, fallback) = pods(Does::SayAndStay(unavailable(
        "x-zimage-refused: device-lost",
    )))
    .await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    let answer = gateway.post(r#"{"prompt": "poison"}"#).await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::BAD_GATEWAY, &json!("request_lost"))
    );
    for _ in 0..3 {
        let again = gateway.post(r#"{"prompt": "poison"}"#).await;
        assert_eq!(again.code(), "request_refused");
    }
    assert_eq!(posts(&primary) + posts(&fallback), 2);
    assert_eq!(gateway.figure(POISON), 4.0);
    // Each of the two has said that it starts again.
    let ejected = "zimage_gateway_ejections_total{reason=\"device\"}";
    assert_eq!(gateway.figure(ejected), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_only_waited_when_a_device_was_lost_are_not_to_blame() {
    let (primary, fallback) = pods(Does::SayAndStay(unavailable("x-a: b"))).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    for _ in 0..3 {
        let answer = gateway.post(r#"{"prompt": "a fox"}"#).await;
        assert_eq!(answer.code(), "unavailable");
    }
    assert_eq!(gateway.figure(POISON), 0.0);
    for pod in primary.iter().chain(&fallback) {
        pod.now(Does::Answer);
    }
    let answer = gateway.post(r#"{"prompt": "a fox"}"#).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_full_is_asked_on_the_head_alone_and_three_are_the_most() {
    let full =
        Does::SayAtOnce(b"HTTP/1.1 429 No\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n".to_vec());
    let (primary, fallback) = pods(full).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    let answer = gateway.post(vec![b'x'; 150 << 10]).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(posts(&primary) + posts(&fallback), 3);
    let bodies = primary.iter().chain(&fallback).map(Raw::body_bytes);
    assert_eq!(bodies.sum::<usize>(), 0);
    // A small body goes out with the head, but only to the first one.
    let answer = gateway.post("{}").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let bodies = primary.iter().chain(&fallback).map(Raw::body_bytes);
    assert!(bodies.sum::<usize>() <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pod_is_not_asked_before_its_time() {
    let full = Raw::start(Does::SayAndStay(
        b"HTTP/1.1 429 No\r\nretry-after: 50\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ))
    .await;
    let well = Raw::start(Does::Answer).await;
    let gateway = gateway(&[full.address], &[well.address]).await;
    let began = Instant::now();
    // One request a second may look.
    let most = |began: Instant| 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    for _ in 0..20 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    assert!(full.posts() <= most(began), "{}", full.posts());
    well.now(Does::SayAndStay(
        b"HTTP/1.1 429 No\r\nretry-after: 999999999999\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ));
    let before = well.posts();
    for _ in 0..20 {
        let answer = gateway.post("{}").await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::TOO_MANY_REQUESTS, &json!("queue_full"))
        );
        let wait: u64 = answer.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let asked = full.posts() + well.posts() - before;
    assert!(asked <= 2 * most(began), "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_502_passes_a_request_on_once_more() {
    let (primary, fallback) = pods(Does::SayAndStay(status("502 Bad Gateway"))).await;
    let gateway = gateway(&addresses(&primary), &addresses(&fallback)).await;
    assert_eq!(
        gateway.post("{}").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let bodies = primary.iter().chain(&fallback).map(Raw::body_bytes);
    assert_eq!(bodies.sum::<usize>(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_send_the_same_request_are_not_refused_when_their_pods_die() {
    let primary = Raw::several(2, Does::Answer).await;
    let fallback = Raw::start(Does::Answer).await;
    let gateway = gateway(&addresses(&primary), &[fallback.address]).await;
    assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    for pod in &primary {
        pod.now(Does::Die);
    }
    for _ in 0..6 {
        gateway.post("{}").await;
    }
    assert_eq!(
        gateway.post("{}").await.body["port"],
        fallback.address.port()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_unavailable_at_once_draws_no_requests_to_itself() {
    let broken = Raw::start(Does::SayAndStay(
        b"HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ))
    .await;
    let well = Raw::start(Does::Answer).await;
    let gateway = gateway(&[broken.address, well.address], &[]).await;
    for _ in 0..200 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    // It leaves the rotation after two, and is tried once at a time after that.
    assert!(broken.posts() < 10, "{}", broken.posts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_refuses_one_request_for_is_not_held_against_it() {
    let refusals = [
        "429 No\r\nretry-after: 50",
        "503 No\r\nretry-after: 50",
        "503 No",
    ];
    for refusal in refusals {
        let head =
            format!("HTTP/1.1 {refusal}\r\nx-zimage-refused: request\r\ncontent-length: 0\r\n\r\n");
        let pod = Raw::start(Does::SayAndStay(head.into_bytes())).await;
        let gateway = gateway(&[pod.address], &[]).await;
        for _ in 0..5 {
            assert_ne!(gateway.post("{}").await.status, StatusCode::OK);
        }
        assert_eq!(pod.posts(), 5, "{refusal}");
        pod.now(Does::Answer);
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
}
