//! Faults that take minutes, or nodes: `make test LAYER=faults`, on a cluster of two nodes.

mod api_server;
mod clock;
mod disk;
mod gpu;
mod knowledge;
mod leader;
mod nodes;
mod partition;
mod stuck;
mod volume;

use crate::scene::Scene;
use anyhow::Result;

/// Whether a pod's containers are ready.
async fn is_ready(scene: &Scene, pod: &str) -> Result<bool> {
    let status = scene.pods().get(pod).await?.status.unwrap_or_default();
    let statuses = status.container_statuses.unwrap_or_default();
    Ok(statuses.iter().all(|status| status.ready))
}

/// How often its containers were started again.
async fn restarts(scene: &Scene, pod: &str) -> Result<i32> {
    Ok(crate::scene::restarts(&scene.pods().get(pod).await?))
}
