//! Pods whose answers are no HTTP, or not what they say.

use crate::raw::{Does, Raw};
use crate::stage::{Gateway, gateway};
use axum::http::StatusCode;
use serde_json::json;
use std::time::Duration;

const CUT: &str = "zimage_gateway_answers_cut_total{tier=\"primary\"}";

async fn scene() -> (Raw, Raw, Gateway) {
    let (liar, well) = (
        Raw::start(Does::Answer).await,
        Raw::start(Does::Answer).await,
    );
    let gateway = gateway(&[liar.address], &[well.address]).await;
    (liar, well, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_passes_the_request_on() {
    let garbage: Vec<u8> = (0..=255).cycle().take(5120).collect();
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(40 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(2000));
    for lie in [
        b"SSH-2.0-x\r\n".to_vec(),
        garbage,
        b"".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nEVIL"
            .to_vec(),
        b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
        b"HTTP/1.1 503 No\r\nContent-Length: 1000000\r\n\r\n".to_vec(),
        b"HTTP/1.1 429 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n".to_vec(),
        long.into_bytes(),
        many.into_bytes(),
    ] {
        let (liar, well, gateway) = scene().await;
        let shown = String::from_utf8_lossy(&lie)
            .chars()
            .take(60)
            .collect::<String>();
        liar.now(Does::Say(lie));
        let answer = gateway.post("{}").await;
        assert_eq!(
            (answer.status, &answer.body["port"]),
            (StatusCode::OK, &json!(well.address.port())),
            "{shown:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_are_not_the_last_word() {
    let (liar, _, gateway) = scene().await;
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(50);
    let answer = format!(
        "HTTP/1.1 100 Continue\r\n\r\n{interim}HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{{\"last\": true"
    );
    let answer = answer.replace("true", "1}");
    liar.now(Does::SayAndStay(answer.into_bytes()));
    let answer = gateway.post("{}").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.to_string().contains("last"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_and_is_counted() {
    let (liar, _, gateway) = scene().await;
    liar.now(Does::Say(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc".to_vec(),
    ));
    let url = gateway.url("/v1/images/generations");
    let answer = gateway.http.post(url).body("{}").send().await.unwrap();
    assert!(answer.text().await.is_err());
    assert_eq!(gateway.figure(CUT), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_to_a_halt_breaks_off_for_the_client_and_its_pod_is_left() {
    let (liar, well, gateway) = scene().await;
    liar.now(Does::SayAndStay(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc".to_vec(),
    ));
    let url = gateway.url("/v1/images/generations");
    let answer = gateway.http.post(url).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // A request may take twenty seconds here, and fifteen minutes elsewhere.
    let text = tokio::time::timeout(Duration::from_secs(17), answer.text());
    assert!(text.await.expect("it is cut").is_err());
    assert_eq!(gateway.figure(CUT), 1.0);
    let silent = "zimage_gateway_ejections_total{reason=\"silent\"}";
    assert_eq!(gateway.figure(silent), 1.0);
    let next = gateway.post("{}").await;
    assert_eq!(next.body["port"], well.address.port());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_after_an_answer_are_nobodys() {
    let (liar, _, gateway) = scene().await;
    let evil = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
    liar.now(Does::SayAndStay(evil.to_vec()));
    for _ in 0..12 {
        let answer = gateway.post("{}").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!answer.body.to_string().contains("EVIL"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_count_and_a_length_beside_them_does_not() {
    let (liar, _, gateway) = scene().await;
    liar.now(Does::Say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
    ));
    let answer = gateway.post("{}").await;
    // Refusing such an answer is right as well (RFC 9112, section 6.3).
    if !answer.body.is_object() {
        assert_eq!(answer.body, "hello");
        assert!(
            answer
                .headers
                .get("content-length")
                .is_none_or(|length| length == "5")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_statuses_are_the_answer() {
    let (liar, well, gateway) = scene().await;
    for line in ["302 Found", "400 Bad Request", "404 Not Found", "500 Oops"] {
        liar.now(Does::SayAndStay(crate::raw::status(line)));
        let answer = gateway.post("{}").await;
        assert!(line.starts_with(answer.status.as_str()), "{line}");
    }
    assert_eq!(well.posts(), 0);
}
