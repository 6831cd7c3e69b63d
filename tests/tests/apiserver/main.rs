//! The API as a real API server has it: what it refuses and why, what it fills in, what it shows.

mod admission;
mod defaults;
mod faults;
mod operator;
mod process;
mod refusals;
mod samples;
mod shown;

use kube::Client;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::sync::OnceCell;
use zimage_tests::cluster;
use zimage_tests::namespace::with_namespace;

static CRD: OnceCell<()> = OnceCell::const_new();

/// Runs a test in its own namespace of a cluster that has the CRD.
async fn with_api(
    test: impl AsyncFnOnce(Client, String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    CRD.get_or_try_init(cluster::install_crd).await?;
    with_namespace(cluster::client().await?, test).await
}

/// Creates an object as it was written, without our types' own checks and defaults. Unknown fields are refused, as
/// kubectl asks for.
async fn create(
    client: &Client,
    namespace: &str,
    manifest: &Value,
) -> anyhow::Result<DynamicObject> {
    let path = format!(
        "/apis/zimage.dev/v1alpha1/namespaces/{namespace}/zimagedeployments?fieldValidation=Strict"
    );
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(manifest)?)?;
    Ok(client.request(request).await?)
}
