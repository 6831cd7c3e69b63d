//! Which requests are sent again, and who pays for it.

use crate::raw::{Does, Raw, status};
use crate::stage::{Answer, Gateway, gateway};
use axum::http::StatusCode;
use futures::future::join_all;
use std::time::Duration;

/// More than a gateway always sends again, and than a fifth of what came.
const QUEUE: usize = 65;

async fn post_many(gateway: &Gateway) -> Vec<Answer> {
    let posts = (0..QUEUE).map(|number| gateway.post(format!("{{\"prompt\": \"{number}\"}}")));
    join_all(posts).await
}

/// A pod of the primary tier that ends with a whole queue.
async fn ends(how: Does) {
    let (pod, other) = (
        Raw::start(Does::Compute).await,
        Raw::start(Does::Compute).await,
    );
    let gateway = gateway(&[pod.address], &[other.address]).await;
    let end = async {
        while pod.posts() + other.posts() < QUEUE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        other.now(Does::Answer);
        pod.now(how.clone());
    };
    let (answers, ()) = tokio::join!(post_many(&gateway), end);
    let lost = answers
        .iter()
        .filter(|answer| answer.status != StatusCode::OK);
    assert_eq!(lost.count(), 0, "{how:?}");
    assert_eq!(gateway.figure("zimage_gateway_retries_refused_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_dies_with_a_whole_queue_has_all_of_it_asked_elsewhere() {
    ends(Does::Die).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_gives_a_whole_queue_up_has_all_of_it_asked_elsewhere() {
    ends(Does::SayAndStay(status("503 Service Unavailable"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_too_much_takes_no_retries_from_those_whose_pod_dies() {
    let head = b"HTTP/1.1 503 No\r\nx-zimage-refused: request\r\ncontent-length: 0\r\n\r\n";
    let refuses = Does::SayAndStay(head.to_vec());
    let (pod, other) = (Raw::start(refuses.clone()).await, Raw::start(refuses).await);
    let gateway = gateway(&[pod.address], &[other.address]).await;
    for _ in 0..2 {
        assert!(
            post_many(&gateway)
                .await
                .iter()
                .all(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE)
        );
    }
    let refused = gateway.figure("zimage_gateway_retries_refused_total");
    assert!(refused > 0.0, "such requests are bounded, too");
    assert!(pod.posts() + other.posts() <= 2 * QUEUE + 2 * QUEUE / 5 + 1);
    pod.now(Does::Die);
    other.now(Does::Answer);
    assert!(
        join_all((0..5).map(|number| gateway.post(number.to_string())))
            .await
            .iter()
            .all(|answer| answer.status == StatusCode::OK)
    );
    assert_eq!(
        gateway.figure("zimage_gateway_retries_refused_total"),
        refused
    );
}
