//! Pods that said that they are full, and the clients that made them so.

use crate::raw::{Does, Raw};
use crate::stage::{Gateway, gateway};
use axum::http::StatusCode;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A pod that is full says that it has room after 50 s.
const LONG: Duration = Duration::from_secs(50);
/// What a busy machine may take for what needs a second or two.
const PATIENCE: Duration = Duration::from_secs(25);

fn full() -> Does {
    Does::SayAndStay(b"HTTP/1.1 429 No\r\nretry-after: 50\r\ncontent-length: 0\r\n\r\n".to_vec())
}

async fn answers_within(gateway: &Gateway, patience: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < patience {
        let answer = gateway.post("{}").await;
        if answer.status == StatusCode::OK {
            return true;
        }
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// Sends a request that the pod holds, and lets the pod be full then.
async fn hold(gateway: &Gateway, pod: &Raw) -> JoinHandle<reqwest::Result<reqwest::Response>> {
    let url = gateway.url("/v1/images/generations");
    let held = tokio::spawn(gateway.http.post(url).body("{}").send());
    while pod.posts() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pod.now(full());
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_fill_the_pods_and_leave_keep_nobody_out_of_any_gateway() {
    let pod = Raw::start(Does::Hold).await;
    let (own, other) = (
        gateway(&[pod.address], &[]).await,
        gateway(&[pod.address], &[]).await,
    );
    let held = hold(&own, &pod).await;
    for gateway in [&own, &other] {
        let answer = gateway.post("{}").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    }
    pod.now(Does::Answer);
    held.abort();
    let began = Instant::now();
    for gateway in [&other, &own] {
        assert!(answers_within(gateway, PATIENCE).await);
    }
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pod_is_asked_at_once_when_a_request_of_the_gateway_left_it() {
    let pod = Raw::start(Does::Hold).await;
    let gateway = gateway(&[pod.address], &[]).await;
    let held = hold(&gateway, &pod).await;
    let refused = gateway.post("{}").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    pod.now(Does::Answer);
    held.abort();
    while gateway.figure("zimage_gateway_requests_in_flight ") > 0.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
}
