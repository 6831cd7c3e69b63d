//! `POST /v1/images/generations`.

mod answer;
mod body;
mod control;
mod fields;
#[cfg(fuzzing)]
pub mod fuzzing;
mod image_file;
mod references;
mod start_image;

use crate::app::App;
use crate::encode::{ImageFormat, encode};
use crate::error::ApiError;
use crate::json_body::JsonBody;
use answer::Answer;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64_simd::STANDARD;
use body::Wish;
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::value::RawValue;
use zimage_engine::{Generated, Ticket};

/// Makes the images of one request.
pub(crate) async fn create(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
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
    let Wish {
        mut requests,
        format,
        start,
        control,
        references,
    } = wish;
    let engine = app.engine()?;
    let Some(first) = requests.first().cloned() else {
        return Err(ApiError::invalid("n", "n must be at least 1"));
    };
    let size = (first.width, first.height);
    let init = start_image::decode(start, size).await?;
    let control = control::decode(control, size).await?;
    let references = references::decode(references, app.limits).await?;
    for request in &mut requests {
        request.init.clone_from(&init);
        request.control.clone_from(&control);
        request.references.clone_from(&references);
    }
    let tickets = engine.submit(requests)?;
    let images = try_join_all(tickets.into_iter().map(|ticket| image(ticket, format))).await?;
    let answer = Answer::new(&first, &images, format);
    let mut response = json(&answer, answer.room())?;
    let headers = response.headers_mut();
    headers.insert(
        "x-zimage-model",
        HeaderValue::from_static(app.identity.variant.model_name()),
    );
    headers.insert("x-zimage-seed", HeaderValue::from(first.noise.seed));
    Ok(response)
}

/// A body of JSON. Its room is taken at once: an image has megabytes.
fn json(answer: &impl Serialize, room: usize) -> Result<Response, ApiError> {
    let mut body = Vec::with_capacity(room);
    serde_json::to_writer(&mut body, answer).map_err(|error| {
        let message = format!("failed to write the answer: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
    let kind = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([kind], body).into_response())
}

/// One image and its file as a JSON text in base64.
async fn image(
    ticket: Ticket,
    format: ImageFormat,
) -> Result<(Generated, Box<RawValue>), ApiError> {
    let generated = ticket.image().await?;
    let fault = |message: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message);
    // Encoding has a thread of its own: the device already works on the next request.
    let encoded = tokio::task::spawn_blocking(move || {
        let file = encode(&generated.pixels, format, &[]).map_err(|error| error.to_string())?;
        let text = quoted(&file).map_err(|error| error.to_string())?;
        Ok((generated, text))
    });
    match encoded.await {
        Ok(outcome) => outcome.map_err(fault),
        Err(error) => Err(fault(format!("failed to encode the image: {error}"))),
    }
}

/// A file in base64 between quotes. There is nothing to escape in it, which would be looked for a byte at a time.
fn quoted(file: &[u8]) -> serde_json::Result<Box<RawValue>> {
    let mut text = String::with_capacity(STANDARD.encoded_length(file.len()) + 2);
    text.push('"');
    STANDARD.encode_append(file, &mut text);
    text.push('"');
    RawValue::from_string(text)
}
