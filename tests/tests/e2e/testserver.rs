//! The test server's control port: what the pods of a tier claim about their load.

use crate::scene::Scene;
use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};
use zimage_crds::Tier;
use zimage_tests::forward::Forward;

pub(crate) const CONTROL_PORT: u16 = 9091;

/// What a server reports.
#[derive(Clone, Copy)]
pub(crate) struct Reported {
    /// GPU utilisation, 0 to 1.
    pub(crate) utilization: f64,
    /// Requests that wait.
    pub(crate) waiting: u32,
}

pub(crate) const SATURATED: Reported = Reported {
    utilization: 0.99,
    waiting: 4,
};
pub(crate) const BUSY_WITHOUT_QUEUE: Reported = Reported {
    utilization: 0.99,
    waiting: 0,
};
pub(crate) const RELIEVED: Reported = Reported {
    utilization: 0.2,
    waiting: 0,
};

/// Makes every pod of a tier report `load` from now on.
pub(crate) async fn report(scene: &Scene, tier: Tier, load: Reported) -> Result<()> {
    let fields = json!({"gpu_utilization": load.utilization, "requests_waiting": load.waiting});
    control(scene, tier, &fields).await
}

/// Changes what every pod of a tier claims or does.
pub(crate) async fn control(scene: &Scene, tier: Tier, fields: &Value) -> Result<()> {
    for pod in scene.server_pods(tier).await? {
        let way = Forward::start(scene.pods(), &pod.name_any(), CONTROL_PORT).await?;
        put(&way, fields).await?;
    }
    Ok(())
}

pub(crate) async fn put(way: &Forward, fields: &Value) -> Result<()> {
    let response = reqwest::Client::new()
        .put(way.url("/control"))
        .json(fields)
        .send()
        .await?;
    let status = response.status();
    ensure!(status.is_success(), "{status}: {}", response.text().await?);
    Ok(())
}
