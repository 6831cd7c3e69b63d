//! Which path leads where, and what every request passes through.

use crate::app::App;
use crate::error::ApiError;
use crate::quote::cut;
use crate::{generations, metrics, models, probes, request_id};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;

/// Everything on the API port.
pub fn api(app: App) -> Router {
    Router::new()
        .route("/v1/images/generations", post(generations::create))
        .route("/v1/models", get(models::list))
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), name_the_tier))
        .layer(from_fn_with_state(app.metrics.clone(), metrics::count))
        .layer(from_fn(request_id::log))
        .with_state(app)
}

/// `/metrics` of a registry, in the OpenMetrics text format.
pub fn metrics_router(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/metrics", get(show))
        .with_state(registry)
}

async fn show(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn unknown_path(uri: Uri) -> ApiError {
    let message = format!(
        "there is no {}; this server has POST /v1/images/generations and GET /v1/models",
        cut(uri.path())
    );
    ApiError::new(StatusCode::NOT_FOUND, message).with_code("unknown_url")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {}", cut(uri.path()), cut(method.as_str()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).with_code("method_not_supported")
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal("answer a request", &"it panicked").into_response()
}

async fn name_the_tier(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let tier = app
        .identity
        .tier
        .as_deref()
        .and_then(|tier| HeaderValue::from_str(tier).ok());
    if let Some(tier) = tier {
        response.headers_mut().insert("x-zimage-tier", tier);
    }
    response
}
