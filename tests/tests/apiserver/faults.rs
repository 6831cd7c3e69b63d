//! The operator starts again and again, its lists are refused or late, its writes get lost. Those of minutes, in
//! `minutes`, are run by `make test LAYER=faults`.

mod lists;
mod restarts;
mod swallowed;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use serde_json::json;
use zimage_tests::manifest::{Change, valid};

/// Makes `fox-0` and so on, which ask for no server.
async fn many(client: &Client, namespace: &str, count: usize) -> Result<()> {
    let manifest = valid()
        .with("spec.primary.replicas", json!(0))
        .with("spec.fallback.replicas", json!(0))
        .with("spec.gateway.replicas", json!(1));
    let numbers = stream::iter(0..count);
    let made = numbers.map(|number| {
        let named = manifest
            .clone()
            .with("metadata.name", json!(format!("fox-{number}")));
        async move { crate::create(client, namespace, &named).await.map(drop) }
    });
    made.buffer_unordered(8).try_collect().await
}
