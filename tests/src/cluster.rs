//! The cluster under test.

use crate::commands::kubectl;
use crate::repository;
use anyhow::{Context, Result, ensure};
use kube::Client;
use std::env;

/// Variable that says that the cluster of `KUBECONFIG` may be changed at will; `cluster env` sets both.
const CONSENT: &str = "ZIMAGE_CLUSTER";

/// A client of the test cluster.
///
/// # Errors
/// When no test cluster is named, or its kubeconfig cannot be used.
pub async fn client() -> Result<Client> {
    ensure!(
        env::var_os(CONSENT).is_some() && env::var_os("KUBECONFIG").is_some(),
        "no test cluster: run `make test`, or `eval \"$(tests/cluster/cluster env NAME)\"` for one that is up"
    );
    Client::try_default()
        .await
        .context("failed to make a client from KUBECONFIG")
}

/// Installs the CustomResourceDefinition and waits until the API server serves it.
///
/// # Errors
/// When kubectl fails.
pub async fn install_crd() -> Result<()> {
    client().await?;
    let crd = repository::read("crds/yaml/zimagedeployments.yaml");
    kubectl(
        &[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=helm",
            "-f",
            "-",
        ],
        &crd,
    )
    .await?;
    let name = "crd/zimagedeployments.zimage.dev";
    kubectl(
        &["wait", "--for=condition=Established", name, "--timeout=30s"],
        "",
    )
    .await?;
    Ok(())
}
