//! The interface as its clients see it.

mod admission;
mod lost_device;

use crate::json_body::MAX_BYTES;
use crate::{App, HttpMetrics, Identity, ImageFormat, api, encode};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use base64_simd::STANDARD;
use serde_json::{Value, json};
use std::sync::mpsc;
use std::time::Duration;
use tower::ServiceExt;
use zimage_core::executor::ExecutorError;
use zimage_core::fake::{Call, FakeExecutor};
use zimage_core::limits::Limits;
use zimage_core::pixels::Pixels;
use zimage_core::variant::Variant;
use zimage_engine::{Engine, EngineMetrics, EngineOptions};

fn loading() -> App {
    let identity = Identity {
        variant: Variant::Turbo,
        alias: Some("fox".to_owned()),
        tier: Some("primary".to_owned()),
    };
    App::new(
        identity,
        Limits::default(),
        Duration::from_secs(60),
        HttpMetrics::default(),
    )
}

fn engine(before: impl FnMut(Call) -> Result<(), ExecutorError> + Send + 'static) -> Engine {
    let options = EngineOptions {
        max_batch_size: 1,
        max_queue_length: 1,
        ..EngineOptions::default()
    };
    Engine::start(
        vec![Box::new(FakeExecutor::new(before))],
        options,
        EngineMetrics::default(),
    )
    .unwrap()
}

fn serving() -> App {
    let app = loading();
    app.start_serving(engine(|_| Ok(())));
    app
}

struct Answer {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn error(&self, field: &str) -> &Value {
        &self.body["error"][field]
    }

    fn images(&self) -> Vec<Vec<u8>> {
        let data = self.body["data"].as_array().unwrap();
        data.iter()
            .map(|image| {
                STANDARD
                    .decode_to_vec(image["b64_json"].as_str().unwrap())
                    .unwrap()
            })
            .collect()
    }
}

async fn send(app: &App, request: Request<Body>) -> Answer {
    let router: Router = api(app.clone());
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 64 << 20).await.unwrap();
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

async fn get(app: &App, path: &str) -> Answer {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn post(app: &App, body: impl Into<Body>) -> Answer {
    let request =
        Request::post("/v1/images/generations").header(header::CONTENT_TYPE, "application/json");
    send(app, request.body(body.into()).unwrap()).await
}

/// A body with a prompt, a small size and `more`.
fn wish(more: Value) -> String {
    let mut body = json!({"prompt": "a fox in the snow", "size": "64x64"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// A PNG file in base64.
fn image_file(width: u32, height: u32) -> String {
    let pixels = Pixels::new(width, height, vec![0; (width * height * 3) as usize]).unwrap();
    STANDARD.encode_to_string(encode(&pixels, ImageFormat::Png, &[]).unwrap())
}

#[tokio::test]
async fn a_prompt_becomes_an_image_of_the_size_asked_for() {
    let answer = post(&serving(), wish(json!({"size": "128x64", "seed": 7}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(&answer.images()[0][..8], b"\x89PNG\r\n\x1a\n");
    let image = image::load_from_memory(&answer.images()[0]).unwrap();
    assert_eq!((image.width(), image.height()), (128, 64));
    assert_eq!(answer.body["size"], "128x64");
    assert_eq!(answer.body["seed"], 7);
    assert_eq!(answer.body["num_inference_steps"], 8);
    assert_eq!(answer.body["usage"]["input_tokens"], 5);
    assert_eq!(answer.header("x-zimage-tier"), Some("primary"));
    assert_eq!(answer.header("x-zimage-model"), Some("z-image-turbo"));
    assert_eq!(answer.header("x-zimage-seed"), Some("7"));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_image_and_another_seed_another() {
    let app = serving();
    let image = async |seed: u64| {
        post(&app, wish(json!({"seed": seed})))
            .await
            .images()
            .remove(0)
    };
    assert_eq!(image(1).await, image(1).await);
    assert_ne!(image(1).await, image(2).await);
}

#[tokio::test]
async fn an_image_to_start_from_and_its_strength_reach_the_executor() {
    let app = serving();
    let image = async |more: Value| post(&app, wish(more)).await.images().remove(0);
    let (file, mask) = (image_file(64, 64), image_file(64, 64));
    let from =
        |strength: f32| json!({"seed": 1, "image": file, "mask": mask, "strength": strength});
    let usual = image(json!({"seed": 1, "image": file, "mask": mask})).await;
    assert_eq!(usual, image(from(0.6)).await);
    assert_ne!(usual, image(from(0.7)).await);
    assert_ne!(usual, image(json!({"seed": 1})).await);
}

#[tokio::test]
async fn without_a_seed_the_answer_tells_the_one_that_was_drawn() {
    let app = serving();
    let drawn = post(&app, wish(json!({}))).await;
    let again = post(&app, wish(json!({"seed": drawn.body["seed"]}))).await;
    assert_eq!(drawn.images(), again.images());
}

#[tokio::test]
async fn several_images_of_a_request_differ() {
    let images = post(&serving(), wish(json!({"n": 2, "seed": 1})))
        .await
        .images();
    assert_eq!(images.len(), 2);
    assert_ne!(images[0], images[1]);
}

#[tokio::test]
async fn other_file_formats_can_be_asked_for() {
    for (format, start) in [("jpeg", &b"\xff\xd8\xff"[..]), ("webp", b"RIFF")] {
        let answer = post(&serving(), wish(json!({"output_format": format}))).await;
        assert!(answer.images()[0].starts_with(start), "{format}");
        assert_eq!(answer.body["output_format"], format);
    }
}

#[tokio::test]
async fn values_that_openais_clients_send_by_default_are_taken() {
    let defaults = json!({"model": "fox", "n": 1, "quality": "auto", "background": "auto", "moderation": "auto",
        "response_format": "b64_json", "stream": false, "partial_images": 0, "user": "me", "style": null});
    let answer = post(&serving(), wish(defaults)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_name_and_with_the_reason() {
    let app = serving();
    for (body, param, reason) in [
        (
            json!({"response_format": "url"}),
            "response_format",
            "stores no images",
        ),
        (json!({"quality": "high"}), "quality", "num_inference_steps"),
        (json!({"background": "transparent"}), "background", "opaque"),
        (json!({"style": "vivid"}), "style", "prompt"),
        (json!({"stream": true}), "stream", "sends an answer whole"),
        (
            json!({"partial_images": 2}),
            "partial_images",
            "sends an answer whole",
        ),
        (
            json!({"output_compression": 50}),
            "output_compression",
            "jpeg",
        ),
        (
            json!({"output_format": "gif"}),
            "output_format",
            "png, jpeg, webp",
        ),
        (json!({"size": "1000x1000"}), "width", "992 or 1008"),
        (json!({"size": "big"}), "size", "1024x1024"),
        (json!({"width": 64}), "size", "exclude"),
        (json!({"n": 0}), "n", "from 1 to 10"),
        (json!({"n": 11}), "n", "from 1 to 10"),
        (json!({"n": "two"}), "n", "integer"),
        (json!({"seed": -1}), "seed", "from 0"),
        (json!({"seed": 1.5}), "seed", "integer"),
        (
            json!({"num_inference_steps": 0}),
            "num_inference_steps",
            "from 1 to 100",
        ),
        (
            json!({"guidance_scale": "high"}),
            "guidance_scale",
            "number",
        ),
        (
            json!({"cfg_normalization": "yes"}),
            "cfg_normalization",
            "true, false or a number",
        ),
        (
            json!({"cfg_truncation": 2}),
            "cfg_truncation",
            "from 0 to 1",
        ),
        (json!({"references": "x"}), "references", "list"),
        (json!({"references": ["%"]}), "references", "base64"),
        (json!({"image": "%"}), "image", "base64"),
        (
            json!({"image": image_file(64, 64), "mask": image_file(32, 64)}),
            "mask",
            "has 32x64 pixels; the size asked for, 64x64, is needed",
        ),
        (json!({"mask": image_file(64, 64)}), "mask", "needs image"),
        (json!({"strength": 0.5}), "strength", "needs image"),
        (json!({"control_image": 7}), "control_image", "string"),
        (json!({"control_image": "%"}), "control_image", "base64"),
        (
            json!({"control_image": image_file(32, 64)}),
            "control_image",
            "has 32x64 pixels; the size asked for, 64x64, is needed",
        ),
        (
            json!({"control_image": image_file(64, 64)}),
            "control_image",
            "start it with --device cpu and --controlnet",
        ),
        (
            json!({"controlnet_conditioning_scale": 0.5}),
            "controlnet_conditioning_scale",
            "needs control_image",
        ),
        (json!({"prompt": 7}), "prompt", "string"),
        (json!({"prompt": null}), "prompt", "required"),
        (json!({"promt": "typo"}), "promt", "unknown field"),
    ] {
        let answer = post(&app, wish(body.clone())).await;
        assert_eq!(
            answer.status,
            StatusCode::BAD_REQUEST,
            "{body}: {}",
            answer.body
        );
        assert_eq!(answer.error("param"), param, "{body}");
        assert_eq!(answer.error("type"), "invalid_request_error", "{body}");
        let message = answer.error("message").as_str().unwrap();
        assert!(message.contains(reason), "{body}: {message}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_is_refused() {
    for body in ["", "[]", "{", "\"prompt\""] {
        let answer = post(&serving(), body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.error("code"), "invalid_json", "{body}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let answer = post(&serving(), vec![b' '; MAX_BYTES + 1]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.error("type"), "invalid_request_error");
}

/// Nothing is harder to compress than noise.
#[tokio::test]
async fn a_body_with_the_largest_image_to_start_from_and_its_mask_is_taken() {
    let noise: Vec<u8> = (0..2048 * 2048 * 3_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let file = |levels: Vec<u8>| {
        let pixels = Pixels::new(2048, 2048, levels).unwrap();
        STANDARD.encode_to_string(encode(&pixels, ImageFormat::Png, &[]).unwrap())
    };
    let mask = (0..2048 * 2048 * 3_u32).map(|at| if at % 6144 < 3072 { 0 } else { 255 });
    let body =
        wish(json!({"size": "2048x2048", "image": file(noise), "mask": file(mask.collect())}));
    let answer = post(&serving(), body).await;
    assert_eq!(answer.status, StatusCode::OK);
}

/// A gateway passes a 503 on, and a 400 never.
#[tokio::test]
async fn more_images_than_this_server_holds_are_for_another_one() {
    let answer = post(&serving(), wish(json!({"n": 3}))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.error("code"), "too_many_images");
    assert_eq!(answer.error("param"), "n");
    assert_eq!(answer.header("retry-after"), None);
    assert_eq!(answer.header("x-zimage-refused"), Some("request"));
}

#[tokio::test]
async fn another_model_is_not_found() {
    let answer = post(&serving(), wish(json!({"model": "z-image"}))).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.error("code"), "model_not_found");
    assert!(
        answer
            .error("message")
            .as_str()
            .unwrap()
            .contains("z-image-turbo and fox")
    );
}

#[tokio::test]
async fn the_models_are_listed_as_openai_does() {
    let answer = get(&serving(), "/v1/models").await;
    let names: Vec<_> = answer.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["z-image-turbo", "fox"]);
    assert_eq!(answer.body["object"], "list");
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_envelope_and_metrics_are_not_here() {
    let app = serving();
    assert_eq!(get(&app, "/metrics").await.error("code"), "unknown_url");
    let answer = get(&app, "/v1/images/generations").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.error("code"), "method_not_supported");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let (release, held) = mpsc::channel::<()>();
    let app = loading();
    app.start_serving(engine(move |_| {
        // Ends when the test drops its end.
        let _released = held.recv();
        Ok(())
    }));
    let engine = app.engine().unwrap();
    let answers = futures::future::join_all((0..3).map(|_| async {
        let answer = post(&app, wish(json!({}))).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            return Some(answer);
        }
        None
    }));
    let refused = async {
        let mut answers = std::pin::pin!(answers);
        let first = tokio::time::timeout(Duration::from_millis(300), &mut answers).await;
        assert!(first.is_err(), "two of the three wait for the device");
        drop(release);
        answers.await
    };
    let refused: Vec<_> = refused.await.into_iter().flatten().collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].error("code"), "queue_full");
    assert_eq!(refused[0].header("x-zimage-refused"), None);
    assert!(
        refused[0]
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert!(!engine.has_failed());
}

#[tokio::test]
async fn a_cut_prompt_is_told() {
    let long = "word ".repeat(600);
    let answer = post(&serving(), wish(json!({"prompt": long}))).await;
    assert!(
        answer.body["warnings"][0].as_str().unwrap().contains("512"),
        "{}",
        answer.body["warnings"]
    );
}

#[tokio::test]
async fn a_lost_device_gives_a_retryable_error_and_a_restart() {
    let app = loading();
    app.start_serving(engine(|call| match call {
        Call::Decode => Err(ExecutorError::DeviceLost("XID 79".to_owned())),
        _ => Ok(()),
    }));
    let answer = post(&app, wish(json!({}))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.header("retry-after").is_some());
    app.engine().unwrap().failed().await;
    assert_eq!(
        get(&app, "/healthz").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        get(&app, "/readyz").await.body,
        "the device failed; the log says why"
    );
}

#[tokio::test]
async fn probes_tell_loading_serving_and_leaving_apart() {
    let app = loading();
    assert_eq!(get(&app, "/healthz").await.status, StatusCode::OK);
    assert_eq!(
        get(&app, "/readyz").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let early = post(&app, wish(json!({}))).await;
    assert_eq!(
        (early.status, early.error("code")),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("loading"))
    );
    app.start_serving(engine(|_| Ok(())));
    assert_eq!(get(&app, "/readyz").await.status, StatusCode::OK);
    assert!(app.leave().is_some());
    assert_eq!(get(&app, "/healthz").await.status, StatusCode::OK);
    assert_eq!(
        get(&app, "/readyz").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        post(&app, wish(json!({}))).await.status,
        StatusCode::OK,
        "what still comes is served"
    );
}

#[tokio::test]
async fn request_ids_are_kept_when_they_are_decent() {
    let app = serving();
    let ask = async |id: &str| {
        let request = Request::get("/v1/models")
            .header("x-request-id", id)
            .body(Body::empty())
            .unwrap();
        send(&app, request)
            .await
            .header("x-request-id")
            .unwrap()
            .to_owned()
    };
    assert_eq!(ask("abc-1").await, "abc-1");
    assert_ne!(ask("two words").await, "two words");
    assert_eq!(ask(&"x".repeat(200)).await.len(), 36);
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let request = Request::post("/v1/images/generations")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(wish(json!({}))))
        .unwrap();
    let answer = send(&serving(), request).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let message = answer.error("message").as_str().unwrap();
    assert!(message.contains("application/json"), "{message}");
}

#[tokio::test]
async fn an_error_quotes_no_more_than_one_reads() {
    let app = serving();
    let long = "é".repeat(50_000);
    for body in [
        json!({"model": long}),
        json!({"n": long}),
        json!({&long: 1}),
    ] {
        let answer = post(&app, wish(body)).await;
        assert!(answer.status.is_client_error());
        assert!(answer.body.to_string().len() < 4000);
    }
}

#[tokio::test]
async fn a_model_that_has_guidance_gets_its_own_defaults() {
    let identity = Identity {
        variant: Variant::Base,
        alias: None,
        tier: None,
    };
    let timeout = Duration::from_secs(60);
    let app = App::new(identity, Limits::default(), timeout, HttpMetrics::default());
    app.start_serving(engine(|_| Ok(())));
    let answer = post(&app, wish(json!({"seed": 1}))).await;
    assert_eq!(answer.body["num_inference_steps"], 50);
    assert_eq!(answer.body["guidance_scale"], 5.0);
    assert_eq!(answer.header("x-zimage-model"), Some("z-image"));
    assert_eq!(answer.header("x-zimage-tier"), None);
}

#[tokio::test]
async fn the_models_tell_what_they_are_computed_in() {
    let answer = get(&serving().with_precision("int8"), "/v1/models").await;
    let precisions = answer.body["data"].as_array().unwrap().iter();
    let precisions: Vec<_> = precisions.map(|model| &model["precision"]).collect();
    assert_eq!(precisions, [&json!("int8"); 2]);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let (_release, held) = mpsc::channel::<()>();
    let mut app = loading();
    app.request_timeout = Duration::from_millis(1);
    app.start_serving(engine(move |_| {
        let _released = held.recv();
        Ok(())
    }));
    let answer = post(&app, wish(json!({}))).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.error("code"), "timeout");
}

#[tokio::test]
async fn figures_tell_routes_and_statuses_but_no_paths_of_clients() {
    let app = serving();
    post(&app, wish(json!({}))).await;
    get(&app, "/v1/models").await;
    get(&app, "/secret").await;
    let mut registry = prometheus_client::registry::Registry::default();
    app.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"zimage_http_requests_total{route="/v1/images/generations",code="200"} 1"#,
        r#"zimage_http_requests_total{route="other",code="404"} 1"#,
        r#"zimage_http_request_duration_seconds_count{route="/v1/models"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
}
