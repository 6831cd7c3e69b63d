//! `GET /v1/models`, as OpenAI defines it, with what the model is computed in.

use crate::app::App;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    let model = |id: &str| {
        let mut model = json!({"id": id, "object": "model", "created": 0, "owned_by": "zimage"});
        if let Some(precision) = app.precision {
            model["precision"] = json!(precision);
        }
        model
    };
    let models: Vec<_> = app.identity.names().into_iter().map(model).collect();
    Json(json!({"object": "list", "data": models}))
}
