//! What the log says about a request, and what it never says.

use crate::pods::{pod, refusing};
use crate::stage::{Answer, Gateway, gateway};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// All that the gateways of this process log, at every level, as their program writes it.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let written = log.clone();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(EnvFilter::new("zimage_gateway=trace"))
        .with_writer(move || written.clone())
        .init();
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self, request_id: &str) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["request_id"] == request_id)
            .collect()
    }

    /// A request's line comes after its answer.
    async fn of_request(&self, request_id: &str) -> Value {
        for _ in 0..100 {
            let mut lines = self.lines(request_id).into_iter();
            if let Some(line) = lines.find(|line| line["message"] == "request") {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no line about {request_id}");
    }
}

async fn send(gateway: &Gateway, request_id: &str, body: &Value) -> Answer {
    let request = gateway.http.post(gateway.url("/v1/images/generations"));
    let request = request.header("x-request-id", request_id);
    Answer::of(request.body(body.to_string()).send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_line_that_says_who_answered_after_how_many_attempts() {
    let log = &*LOG;
    let well = pod("fallback").await;
    let full = refusing(StatusCode::TOO_MANY_REQUESTS, "1").await;
    let gateway = gateway(&[full], &[well]).await;
    let body = json!({"prompt": "a fox"});
    send(&gateway, "log-1", &body).await;
    let line = log.of_request("log-1").await;
    assert_eq!(line["method"], "POST");
    assert_eq!(line["path"], "/v1/images/generations");
    assert_eq!(line["status"], 200);
    assert_eq!(line["tier"], "fallback");
    assert_eq!(line["pod"], well.to_string());
    assert_eq!(line["attempts"], 2);
    assert_eq!(line["bytes_in"], body.to_string().len());
    assert!(line["bytes_out"].as_u64().unwrap() > 0, "{line}");
    assert!(line["seconds"].as_f64().unwrap() > 0.0, "{line}");
    let all = log.lines("log-1");
    let passed_on = all.iter().find(|line| line["message"] == "passed on");
    assert_eq!(passed_on.unwrap()["reason"], "429");
    let requests = all.iter().filter(|line| line["message"] == "request");
    assert_eq!(requests.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_the_gateways_own_has_no_tier() {
    let log = &*LOG;
    let gateway = gateway(&[], &[]).await;
    send(&gateway, "log-2", &json!({})).await;
    let line = log.of_request("log-2").await;
    assert_eq!(
        (&line["status"], &line["tier"]),
        (&json!(503), &json!("none"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_are_never_logged() {
    let log = &*LOG;
    let secret = "a fox that nobody knows of";
    let full = refusing(StatusCode::TOO_MANY_REQUESTS, "1").await;
    for gateway in [
        gateway(&[full], &[pod("fallback").await]).await,
        gateway(&[], &[]).await,
    ] {
        send(&gateway, "log-3", &json!({"prompt": secret})).await;
    }
    send(
        &gateway(&[], &[]).await,
        "log-4",
        &json!({"prompt": secret, "model": "none"}),
    )
    .await;
    log.of_request("log-4").await;
    assert!(!log.text().contains(secret));
}
