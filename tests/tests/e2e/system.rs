//! The operator, installed by its chart as a user installs it.

use crate::images::{by_content, tag};
use anyhow::Result;
use kube::Client;
use std::path::Path;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use zimage_tests::cluster;
use zimage_tests::commands::helm;
use zimage_tests::repository;

/// Namespace and release of the operator.
pub(crate) const NAMESPACE: &str = "zimage-system";
pub(crate) const RELEASE: &str = "zimage-operator";

static INSTALLED: OnceCell<()> = OnceCell::const_new();
static OPERATOR: RwLock<()> = RwLock::const_new(());

/// A cluster with the operator, which stays as it is while the guard lives.
pub(crate) async fn shared() -> Result<(Client, RwLockReadGuard<'static, ()>)> {
    let guard = OPERATOR.read().await;
    Ok((ready().await?, guard))
}

/// A cluster with the operator, which this test alone may stop or replace. It leaves it as [`install`] does.
pub(crate) async fn alone() -> Result<(Client, RwLockWriteGuard<'static, ()>)> {
    let guard = OPERATOR.write().await;
    Ok((ready().await?, guard))
}

async fn ready() -> Result<Client> {
    let client = cluster::client().await?;
    INSTALLED.get_or_try_init(install).await?;
    Ok(client)
}

/// Installs this checkout's chart and images, or goes back to them.
pub(crate) async fn install() -> Result<()> {
    let server = by_content("server")?;
    upgrade(
        &repository::path("charts/zimage-operator"),
        tag(&by_content("operator")?),
        &server,
    )
    .await
}

/// `helm upgrade --install` of a chart with an operator image's tag and a default image for new server pods.
pub(crate) async fn upgrade(chart: &Path, operator_tag: &str, server_image: &str) -> Result<()> {
    let chart = chart.display().to_string();
    let values = [
        format!("image.tag={operator_tag}"),
        format!("serverImage={server_image}"),
        format!("gatewayImage={}", by_content("gateway")?),
    ];
    let mut arguments = vec![
        "upgrade",
        "--install",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
    ];
    arguments.extend(["--wait", "--timeout", "3m"]);
    for value in &values {
        arguments.extend(["--set-string", value]);
    }
    helm(&arguments).await?;
    Ok(())
}
