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
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use base64_simd::STANDARD;
use body::Wish;
use futures::future::try_join_all;
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
    let (images, files): (Vec<_>, Vec<_>) = images.into_iter().unzip();
    let answer = Answer::new(&first, images.iter(), format);
    let mut response = answer.with_files(files).map_err(|error| {
        let message = format!("failed to write the answer: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
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
    let fault = |message: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message);
    // Encoding has a thread of its own: the device already works on the next request.
    let encoded = tokio::task::spawn_blocking(move || {
        let file = encode(&generated.pixels, format, &[]).map_err(|error| error.to_string())?;
        Ok((generated, STANDARD.encode_to_string(file)))
    });
    match encoded.await {
        Ok(outcome) => outcome.map_err(fault),
        Err(error) => Err(fault(format!("failed to encode the image: {error}"))),
    }
}
