//! What a request may cost, and when it is refused.

use super::*;
use axum::body::Bytes;
use futures::stream;
use prometheus_client::registry::Registry;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server whose device waits until the sender is dropped.
fn held() -> (App, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let app = loading();
    app.start_serving(engine(move |_| {
        // Ends when the test drops its end.
        let _released = released.recv();
        Ok(())
    }));
    (app, release)
}

/// Fills the device and the queue.
async fn fill(app: &App) -> Vec<tokio::task::JoinHandle<Answer>> {
    let mut filling = Vec::new();
    while app.engine().unwrap().room().is_ok() {
        let own = app.clone();
        filling.push(tokio::spawn(
            async move { post(&own, wish(json!({}))).await },
        ));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    filling
}

fn figures(app: &App) -> String {
    let mut registry = Registry::default();
    app.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn a_full_queue_is_told_before_a_byte_of_the_body_is_read() {
    let (app, release) = held();
    let filling = fill(&app).await;
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let body = stream::once(async move {
        seen.store(true, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Bytes::from_static(b"{}"))
    });
    let answer = post(&app, Body::from_stream(body)).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(!asked.load(Ordering::Relaxed));
    drop(release);
    for filled in filling {
        assert_eq!(filled.await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn uploads_that_do_not_end_keep_no_place_in_the_queue() {
    let app = serving();
    for _ in 0..10 {
        let own = app.clone();
        let slow = stream::pending::<Result<Bytes, std::io::Error>>();
        tokio::spawn(async move { post(&own, Body::from_stream(slow)).await });
    }
    tokio::task::yield_now().await;
    assert_eq!(post(&app, wish(json!({}))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_beyond_the_memory_is_for_another_time() {
    let app = serving().with_buffered_bytes(16 << 20);
    let mut others = app.budget.charge(Ipv4Addr::UNSPECIFIED.into());
    assert!(others.try_grow(6 << 20));
    let large = |bytes| wish(json!({"image": "a".repeat(bytes)}));
    let answer = post(&app, large(4 << 20)).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.error("code"), "overloaded");
    assert_eq!(answer.header("x-zimage-refused"), Some("request"));
    assert!(answer.header("retry-after").is_some());
    // What never finds room is not asked to come again.
    let answer = post(&app, large(9 << 20)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(&app, wish(json!({}))).await.status, StatusCode::OK);
    assert!(
        figures(&app)
            .contains(r#"zimage_http_rejected_total{reason="overloaded",listener="api"} 1"#)
    );
}

#[tokio::test]
async fn images_that_there_is_no_memory_for_are_not_made() {
    let app = serving().with_buffered_bytes(16 << 20);
    let _others = app.budget.answer(Ipv4Addr::UNSPECIFIED.into(), 6 << 20);
    let answer = post(&app, wish(json!({}))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.error("code"), "overloaded");
}

#[tokio::test]
async fn memory_is_held_until_the_answer_was_sent_and_then_given_back() {
    let app = serving();
    let body = wish(json!({"image": image_file(64, 64)}));
    let request = Request::post("/v1/images/generations")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .unwrap();
    let response = api(app.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let buffered = |figures: String| -> usize {
        let line = figures
            .lines()
            .find(|line| line.starts_with("zimage_http_buffered_bytes "));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    };
    let unsent = buffered(figures(&app));
    let sent = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(unsent > sent.len() / 2, "{unsent} of {}", sent.len());
    assert_eq!(buffered(figures(&app)), 0);
}

#[tokio::test]
async fn what_a_request_may_cost_is_the_deployments_to_say() {
    let mut app = serving();
    app.limits = Limits {
        max_images: 2,
        max_pixels: 512 * 512,
        max_steps: 20,
        max_cost: 5,
        ..Limits::default()
    };
    for (body, param, reason) in [
        (json!({"n": 3}), "n", "from 1 to 2"),
        (
            json!({"size": "1024x1024"}),
            "size",
            "at most 262144 pixels",
        ),
        (
            json!({"num_inference_steps": 21}),
            "num_inference_steps",
            "from 1 to 20",
        ),
        (
            json!({"size": "512x512", "num_inference_steps": 20, "guidance_scale": 5}),
            "num_inference_steps",
            "cost 10 forwards x megapixels, at most 5 are taken: ask for at most 10 steps",
        ),
    ] {
        let answer = post(&app, wish(body.clone())).await;
        assert_eq!(
            answer.status,
            StatusCode::BAD_REQUEST,
            "{body}: {}",
            answer.body
        );
        assert_eq!(answer.error("param"), param, "{body}");
        let message = answer.error("message").as_str().unwrap();
        assert!(message.contains(reason), "{body}: {message}");
    }
}

#[tokio::test]
async fn what_cannot_end_in_time_is_refused_at_once() {
    let mut app = loading();
    app.start_serving(engine(|call| {
        if let Call::Step(_) = call {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }));
    assert_eq!(post(&app, wish(json!({}))).await.status, StatusCode::OK);
    app.request_timeout = Duration::from_secs(1);
    let answer = post(&app, wish(json!({"num_inference_steps": 100}))).await;
    assert_eq!(
        answer.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        answer.body
    );
    assert_eq!(answer.error("code"), "too_slow");
    let message = answer.error("message").as_str().unwrap();
    assert!(message.contains("a request has 1 s here"), "{message}");
}

#[tokio::test]
async fn a_failure_tells_the_client_nothing_of_the_server() {
    let app = loading();
    app.start_serving(engine(|call| match call {
        Call::Step(_) => Err(ExecutorError::Failed(
            "at /models/secret: backtrace".to_owned(),
        )),
        _ => Ok(()),
    }));
    let answer = post(&app, wish(json!({}))).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        !answer.body.to_string().contains("secret"),
        "{}",
        answer.body
    );
    let message = answer.error("message").as_str().unwrap();
    assert!(message.contains("x-request-id"), "{message}");
    assert!(answer.header("x-request-id").is_some());
}

#[tokio::test]
async fn errors_are_not_kept_and_not_taken_for_something_else() {
    let answer = post(&serving(), "{").await;
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn every_refusal_is_counted_by_its_reason() {
    let app = serving();
    post(&app, "{").await;
    post(&app, wish(json!({"n": 0}))).await;
    post(&app, wish(json!({"x": 0}))).await;
    post(&app, wish(json!({"user": "a".repeat(300 << 10)}))).await;
    let figures = figures(&app);
    for reason in [
        "invalid_json",
        "invalid_value",
        "unknown_parameter",
        "body_too_large",
    ] {
        let line = format!(r#"zimage_http_rejected_total{{reason="{reason}",listener="api"}} 1"#);
        assert!(figures.contains(&line), "{line} is not in {figures}");
    }
}

#[tokio::test]
async fn a_name_of_any_length_and_kind_is_quoted_in_a_line() {
    let app = serving();
    for name in ["\u{7f}".repeat(100_000), "\r\n\u{1b}[31m".repeat(10_000)] {
        let answer = post(&app, wish(json!({"model": name}))).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(answer.body.to_string().len() < 4 << 10);
        assert!(
            !answer
                .error("message")
                .as_str()
                .unwrap()
                .contains(char::is_control)
        );
    }
}
