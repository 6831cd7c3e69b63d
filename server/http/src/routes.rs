//! Which path leads where, and what every request passes through.

use crate::app::App;
use crate::error::ApiError;
use crate::quote::cut;
use crate::{generations, metrics, models, probes, request_id};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::any::Any;
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

async fn unknown_path(State(app): State<App>, uri: Uri) -> ApiError {
    let message = format!(
        "there is no {}; this server has POST /v1/images/generations and GET /v1/models",
        cut(uri.path())
    );
    let error = ApiError::new(StatusCode::NOT_FOUND, message).with_code("unknown_url");
    error.tell(None, &app.metrics.edge);
    error
}

async fn wrong_method(State(app): State<App>, method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {}", cut(uri.path()), cut(method.as_str()));
    let error =
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).with_code("method_not_supported");
    error.tell(None, &app.metrics.edge);
    error
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
