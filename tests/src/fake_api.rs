//! As much of an API server as a gateway asks: one ZImageDeployment and the EndpointSlices of its tiers, listed and watched.

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use zimage_crds::Tier;

/// Namespace of the objects.
pub const NAMESPACE: &str = "art";

/// Serves the objects until it is dropped. They never change.
pub struct ApiServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// What is served, by the last part of a collection's path.
#[derive(Clone)]
struct Objects(Arc<HashMap<&'static str, Vec<Value>>>);

impl ApiServer {
    /// Serves `deployment`, a manifest with a name, and a ready endpoint for each server.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(deployment: &Value, servers: &[(Tier, SocketAddr)]) -> Result<Self> {
        let name = deployment["metadata"]["name"]
            .as_str()
            .context("the manifest has a name")?;
        let mut object = deployment.clone();
        object["metadata"]["namespace"] = json!(NAMESPACE);
        object["metadata"]["uid"] = json!("c0ffee00-0000-4000-8000-000000000000");
        object["metadata"]["resourceVersion"] = json!("1");
        let slices = servers
            .iter()
            .enumerate()
            .map(|(number, (tier, address))| slice(&format!("{name}-{tier}"), number, *address))
            .collect();
        let objects = HashMap::from([
            ("zimagedeployments", vec![object]),
            ("endpointslices", slices),
        ]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .fallback(answer)
            .with_state(Objects(Arc::new(objects)));
        let task = tokio::spawn(async move {
            // An accept error ends the server, and then the test that needs it.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { address, task })
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
            "current-context": "fake",
        });
        std::fs::write(&path, config.to_string()).context("failed to write a kubeconfig")?;
        Ok(path)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn slice(service: &str, number: usize, server: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-{number}"),
            "namespace": NAMESPACE,
            "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": "http", "port": server.port(), "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [server.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }],
    })
}

async fn answer(
    State(objects): State<Objects>,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let asked = |collection: &&&str| uri.path().contains(**collection);
    let Some(collection) = objects.0.keys().find(asked) else {
        return axum::http::StatusCode::NOT_FOUND.into_response();
    };
    let items = &objects.0[collection];
    let is = |name: &str| query.get(name).is_some_and(|value| value == "true");
    if !is("watch") {
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
        return axum::Json(list).into_response();
    }
    let mut events = Vec::new();
    if is("sendInitialEvents") {
        events.extend(
            items
                .iter()
                .map(|object| json!({"type": "ADDED", "object": object})),
        );
        events.push(bookmark(items));
    }
    let lines = events.into_iter().map(|event| format!("{event}\n"));
    let stream = stream::iter(lines.map(|line| Ok::<_, Infallible>(Bytes::from(line))))
        .chain(stream::pending());
    (
        [(CONTENT_TYPE, "application/json")],
        Body::from_stream(stream),
    )
        .into_response()
}

/// Says that all objects were told. It has their form, so that a client may read it as one.
fn bookmark(items: &[Value]) -> Value {
    let mut object = items.first().cloned().unwrap_or_else(|| json!({}));
    object["metadata"] = json!({
        "resourceVersion": "1",
        "annotations": {"k8s.io/initial-events-end": "true"},
    });
    json!({"type": "BOOKMARK", "object": object})
}
