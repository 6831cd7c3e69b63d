//! `/healthz`: must the process be started again? `/readyz`: may requests be sent here?

use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use std::borrow::Cow;

pub(crate) async fn healthz(State(app): State<App>) -> (StatusCode, Cow<'static, str>) {
    answer(app.fault())
}

pub(crate) async fn readyz(State(app): State<App>) -> (StatusCode, Cow<'static, str>) {
    answer(app.obstacle())
}

fn answer(obstacle: Option<Cow<'static, str>>) -> (StatusCode, Cow<'static, str>) {
    obstacle.map_or((StatusCode::OK, Cow::Borrowed("ok")), |why| {
        (StatusCode::SERVICE_UNAVAILABLE, why)
    })
}
