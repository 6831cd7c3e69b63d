//! The test server's control port: what the pods of a tier claim about their load.

use crate::scene::Scene;
use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};
use zimage_crds::Tier;
use zimage_tests::forward::Forward;

const CONTROL_PORT: u16 = 9091;

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
    for pod in scene.server_pods(tier).await? {
        let control = Forward::start(scene.pods(), &pod.name_any(), CONTROL_PORT).await?;
        put(
            &control,
            &json!({"gpu_utilization": load.utilization, "requests_waiting": load.waiting}),
        )
        .await?;
    }
    Ok(())
}

async fn put(control: &Forward, fields: &Value) -> Result<()> {
    let response = reqwest::Client::new()
        .put(control.url("/control"))
        .json(fields)
        .send()
        .await?;
    let status = response.status();
    ensure!(status.is_success(), "{status}: {}", response.text().await?);
    Ok(())
}
