//! What the server claims about itself, and the port that changes it.

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is claimed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Claims {
    /// GPU utilisation, 0 to 1. None: no GPU.
    pub(crate) gpu_utilization: Option<f64>,
    /// Requests that wait. None: as many as there are.
    pub(crate) requests_waiting: Option<u32>,
    /// Time of a denoising step.
    pub(crate) step_milliseconds: u64,
    /// Status that every generation is answered with. None: an image.
    pub(crate) status: Option<u16>,
    /// Whether `/readyz` may say so.
    pub(crate) ready: bool,
    /// Whether the device stands still in the call that it is in, as in a driver that never returns.
    pub(crate) hang: bool,
    /// Whether a request for an image ends the process, once all of it was read.
    pub(crate) dies: bool,
}

/// A change: fields that are left out stay, `null` is a value of those that know it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    #[serde(default, deserialize_with = "given")]
    gpu_utilization: Option<Option<f64>>,
    #[serde(default, deserialize_with = "given")]
    requests_waiting: Option<Option<u32>>,
    step_milliseconds: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    status: Option<Option<u16>>,
    ready: Option<bool>,
    hang: Option<bool>,
    dies: Option<bool>,
}

impl Change {
    /// The value that cannot be claimed, if there is one.
    fn fault(&self) -> Option<String> {
        if let Some(Some(ratio)) = self.gpu_utilization
            && !(0.0..=1.0).contains(&ratio)
        {
            return Some(format!("gpu_utilization is from 0 to 1, not {ratio}"));
        }
        let status = self.status.flatten()?;
        let fault = || format!("status is from 200 to 599, not {status}");
        (!(200..600).contains(&status)).then(fault)
    }
}

/// Tells a `null` from a field that is left out.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The claims, shared by the server's parts.
#[derive(Clone)]
pub(crate) struct Control(Arc<Mutex<Claims>>);

impl Default for Control {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Claims {
            gpu_utilization: None,
            requests_waiting: None,
            step_milliseconds: 1,
            status: None,
            ready: true,
            hang: false,
            dies: false,
        })))
    }
}

impl Control {
    pub(crate) fn claims(&self) -> Claims {
        self.lock().clone()
    }

    pub(crate) fn step(&self) -> Duration {
        Duration::from_millis(self.lock().step_milliseconds)
    }

    pub(crate) fn hangs(&self) -> bool {
        self.lock().hang
    }

    pub(crate) fn change(&self, change: Change) -> Claims {
        let mut claims = self.lock();
        if let Some(value) = change.gpu_utilization {
            claims.gpu_utilization = value;
        }
        if let Some(value) = change.requests_waiting {
            claims.requests_waiting = value;
        }
        if let Some(value) = change.step_milliseconds {
            claims.step_milliseconds = value;
        }
        if let Some(value) = change.status {
            claims.status = value;
        }
        if let Some(value) = change.ready {
            claims.ready = value;
        }
        if let Some(value) = change.hang {
            claims.hang = value;
        }
        if let Some(value) = change.dies {
            claims.dies = value;
        }
        claims.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control port.
pub(crate) fn router(control: Control) -> Router {
    Router::new()
        .route("/control", get(show).put(put))
        .with_state(control)
}

async fn show(State(control): State<Control>) -> Json<Claims> {
    Json(control.claims())
}

async fn put(
    State(control): State<Control>,
    Json(change): Json<Change>,
) -> Result<Json<Claims>, (StatusCode, String)> {
    match change.fault() {
        Some(fault) => Err((StatusCode::UNPROCESSABLE_ENTITY, fault)),
        None => Ok(Json(control.change(change))),
    }
}

/// Answers in the server's place where the claims say so.
pub(crate) async fn interfere(
    State(control): State<Control>,
    request: Request,
    next: Next,
) -> Response {
    let claims = control.claims();
    if request.uri().path() == "/readyz" && !claims.ready {
        return (StatusCode::SERVICE_UNAVAILABLE, "a test says so").into_response();
    }
    if claims.dies && request.method() == Method::POST {
        // As a request does that the process cannot survive.
        let _read = to_bytes(request.into_body(), usize::MAX).await;
        std::process::abort();
    }
    let status = claims
        .status
        .and_then(|status| StatusCode::from_u16(status).ok());
    match status {
        Some(status) if request.method() == Method::POST => {
            let error = json!({"error": {"message": "a test says so", "type": "server_error", "param": null, "code": null}});
            (status, Json(error)).into_response()
        }
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: serde_json::Value) -> Change {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_left_out_stays_and_null_takes_back() {
        let control = Control::default();
        control.change(change(json!({"gpu_utilization": 0.9, "ready": false})));
        let claims = control.change(change(json!({"requests_waiting": 3})));
        assert_eq!(
            (
                claims.gpu_utilization,
                claims.requests_waiting,
                claims.ready
            ),
            (Some(0.9), Some(3), false)
        );
        assert_eq!(
            control
                .change(change(json!({"gpu_utilization": null})))
                .gpu_utilization,
            None
        );
    }

    #[test]
    fn values_that_no_server_reports_are_refused() {
        for wrong in [
            json!({"gpu_utilization": 99}),
            json!({"gpu_utilization": -0.1}),
            json!({"status": 99}),
            json!({"status": 600}),
        ] {
            assert!(change(wrong.clone()).fault().is_some(), "{wrong}");
        }
        let right = json!({"gpu_utilization": 1, "status": 503, "step_milliseconds": 0});
        assert_eq!(change(right).fault(), None);
        let null = json!({"gpu_utilization": null, "status": null});
        assert_eq!(change(null).fault(), None);
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        assert!(serde_json::from_value::<Change>(json!({"gpu_utilisation": 1})).is_err());
    }
}
