//! `POST /v1/images/generations`.

mod body;
mod fields;

use crate::app::App;
use crate::encode::{ImageFormat, encode};
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use body::Wish;
use futures::future::try_join_all;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use zimage_core::request::ImageRequest;
use zimage_engine::{Generated, Ticket};

/// Makes the images of one request.
pub(crate) async fn create(State(app): State<App>, body: Bytes) -> Result<Response, ApiError> {
    // Seeds that people read and write again: 32 bits are enough.
    let random_seed = u64::from(uuid::Uuid::new_v4().as_fields().0);
    let wish = body::parse(&body, &app.identity, &app.limits, random_seed)?;
    let timeout = app.request_timeout;
    let late = |_| {
        let message = format!("the images were not made within {} s", timeout.as_secs());
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).with_code("timeout")
    };
    tokio::time::timeout(timeout, generate(&app, wish))
        .await
        .map_err(late)?
}

async fn generate(app: &App, wish: Wish) -> Result<Response, ApiError> {
    let Wish { requests, format } = wish;
    let Some(first) = requests.first().cloned() else {
        return Err(ApiError::invalid("n", "n must be at least 1"));
    };
    let tickets = app.engine()?.submit(requests)?;
    let images = try_join_all(tickets.into_iter().map(|ticket| image(ticket, format))).await?;
    let mut response = Json(answer(&first, &images, format)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        "x-zimage-model",
        HeaderValue::from_static(app.identity.variant.model_name()),
    );
    headers.insert("x-zimage-seed", HeaderValue::from(first.noise.seed));
    Ok(response)
}

/// One image and its file in base64.
async fn image(ticket: Ticket, format: ImageFormat) -> Result<(Generated, String), ApiError> {
    let generated = ticket.image().await?;
    // Encoding has a thread of its own: the device already works on the next request.
    let encoded = tokio::task::spawn_blocking(move || {
        let file = encode(&generated.pixels, format)?;
        Ok((generated, STANDARD.encode(file)))
    });
    let fault = |message: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message);
    match encoded.await {
        Ok(outcome) => {
            outcome.map_err(|error: crate::encode::EncodeError| fault(error.to_string()))
        }
        Err(error) => Err(fault(format!("failed to encode the image: {error}"))),
    }
}

fn answer(request: &ImageRequest, images: &[(Generated, String)], format: ImageFormat) -> Value {
    let tokens: u32 = images
        .iter()
        .map(|(generated, _)| generated.prompt_tokens)
        .max()
        .unwrap_or(0);
    let data: Vec<_> = images
        .iter()
        .map(|(_, file)| json!({"b64_json": file}))
        .collect();
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let mut answer = json!({
        "created": created,
        "data": data,
        "background": "opaque",
        "output_format": format.name(),
        "quality": "auto",
        "size": format!("{}x{}", request.width, request.height),
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
            "output_tokens": 0,
            "total_tokens": tokens,
        },
        "seed": request.noise.seed,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
    });
    if images.iter().any(|(generated, _)| generated.truncated) {
        answer["warnings"] =
            json!(["the prompt was cut to the 512 tokens that the text encoder reads"]);
    }
    answer
}
