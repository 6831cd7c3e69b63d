//! `POST /v1/images/generations`.

mod answer;
mod body;
mod fields;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;

use crate::app::App;
use crate::encode::{ImageFormat, encode};
use crate::error::ApiError;
use crate::json_body;
use answer::{Answer, Told};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use base64_simd::STANDARD;
use files::Memory;
use futures::future::try_join_all;
use std::iter::repeat_n;
use std::net::{IpAddr, Ipv4Addr};
use zimage_core::request::ImageRequest;
use zimage_edge::body::Held;
use zimage_edge::{Charge, Client};
use zimage_engine::{Engine, Places, Ticket};

/// Makes the images of one request. What costs more comes later: a place in the queue, the body, its fields, its files.
pub(crate) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let client = request.extensions().get::<Client>();
    let client = client.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |client| client.0.ip());
    let outcome = admit(&app, client, request).await;
    outcome.inspect_err(|error| error.tell(Some(client), &app.metrics.edge))
}

async fn admit(app: &App, client: IpAddr, request: Request) -> Result<Response, ApiError> {
    let engine = app.engine()?;
    // Before the body is asked for. No place is kept while it comes: slow clients would fill the queue.
    engine.room()?;
    let (head, body) = request.into_parts();
    let held = json_body::read(&app.budget, &head, body).await?;
    let place = engine.reserve(1)?;
    let timeout = app.request_timeout;
    let late = |_| {
        let message = format!("the images were not made within {} s", timeout.as_secs());
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).with_code("timeout")
    };
    let made = async {
        let reader = app.clone();
        let admitted = app
            .workers
            .run(move || read(&reader, &engine, (client, held), place));
        generate(app, admitted.await??).await
    };
    tokio::time::timeout(timeout, made).await.map_err(late)?
}

/// A request that can be computed, with its places in the queue and its memory.
struct Admitted {
    /// That of the first image.
    request: ImageRequest,
    format: ImageFormat,
    places: Places,
    /// Memory of the images that came with the request.
    inputs: Charge,
    answer: Charge,
}

/// Reads a body's fields and then its files. Takes up to seconds: not for an async task.
fn read(
    app: &App,
    engine: &Engine,
    (client, held): (IpAddr, Held),
    place: Places,
) -> Result<Admitted, ApiError> {
    // Seeds that people read and write again: 32 bits are enough.
    let random_seed = u64::from(uuid::Uuid::new_v4().as_fields().0);
    let body = body::parse(&held.bytes, &app.identity, &app.limits)?;
    let defaults = app.identity.variant.defaults();
    let request = (body.parameters).resolve(defaults, &app.limits, random_seed)?;
    refuse_late(app, engine, &request)?;
    let images = request.noise.count as usize;
    let places = match images {
        1 => place,
        // All or none: the first one would be counted twice.
        images => {
            drop(place);
            engine.reserve(images)?
        }
    };
    let mut memory = Memory::new(held.charge);
    let request = request.read(&app.limits, |file, input| {
        files::decode(&file, input, &mut memory)
    })?;
    // Before anything is computed: images that there is no memory for would be thrown away.
    let bytes = images.saturating_mul(answer_bytes(&request));
    let answer = app.budget.answer(client, bytes);
    Ok(Admitted {
        request,
        format: body.format,
        places,
        inputs: memory.without_body(),
        answer: answer.ok_or_else(ApiError::overloaded)?,
    })
}

/// Bytes of an image's file in base64, at the most: a PNG of noise has three bytes a pixel.
fn answer_bytes(request: &ImageRequest) -> usize {
    (request.width as usize * request.height as usize).saturating_mul(4)
}

/// Refuses what would not be made in time, by what the device took before.
fn refuse_late<I>(app: &App, engine: &Engine, request: &ImageRequest<I>) -> Result<(), ApiError> {
    let images = repeat_n(request, request.noise.count as usize);
    let Some(time) = engine
        .estimate(images)
        .filter(|time| *time > app.request_timeout)
    else {
        return Ok(());
    };
    let message = format!(
        "the images would be made in about {} s, and a request has {} s here: ask for fewer steps, images or pixels, or later",
        time.as_secs(),
        app.request_timeout.as_secs()
    );
    // Another tier may be faster: a gateway passes a 503 on.
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        .with_code("too_slow")
        .of_this_request())
}

async fn generate(app: &App, admitted: Admitted) -> Result<Response, ApiError> {
    let Admitted {
        request,
        format,
        places,
        inputs,
        mut answer,
    } = admitted;
    let tickets = places.submit(request.images())?;
    let images = try_join_all(tickets.into_iter().map(|ticket| image(ticket, format))).await?;
    let (images, files): (Vec<_>, Vec<_>) = images.into_iter().unzip();
    // The pixels are gone, and so are those of the request.
    drop(inputs);
    answer.shrink(files.iter().map(String::len).sum());
    let told = Answer::new(&request, images.iter(), format);
    let response = told.with_files(files, answer);
    let mut response = response.map_err(|error| ApiError::internal("write the answer", &error))?;
    let headers = response.headers_mut();
    headers.insert(
        "x-zimage-model",
        HeaderValue::from_static(app.identity.variant.model_name()),
    );
    headers.insert("x-zimage-seed", HeaderValue::from(request.noise.seed));
    Ok(response)
}

/// What is told of an image, and its file in base64.
async fn image(ticket: Ticket, format: ImageFormat) -> Result<(Told, String), ApiError> {
    let generated = ticket.image().await?;
    let told = Told::of(&generated);
    // Encoding has a thread of its own: the device already works on the next request.
    let encoded = tokio::task::spawn_blocking(move || {
        encode(&generated.pixels, format, &[]).map(|file| STANDARD.encode_to_string(file))
    });
    let fault = |error: &dyn std::fmt::Display| ApiError::internal("encode the image", error);
    match encoded.await {
        Ok(Ok(file)) => Ok((told, file)),
        Ok(Err(error)) => Err(fault(&error)),
        Err(error) => Err(fault(&error)),
    }
}
