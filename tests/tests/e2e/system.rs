//! The operator, installed by its chart as a user installs it.

use crate::images::{by_content, tag};
use anyhow::Result;
use futures::FutureExt;
use kube::Client;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
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

/// A cluster with the operator, which this test alone may stop or replace. It leaves it as it was ([`restored`]).
pub(crate) async fn alone() -> Result<(Client, RwLockWriteGuard<'static, ()>)> {
    let guard = OPERATOR.write().await;
    Ok((ready().await?, guard))
}

async fn ready() -> Result<Client> {
    let client = cluster::client().await?;
    INSTALLED.get_or_try_init(install).await?;
    Ok(client)
}

/// This checkout's chart.
pub(crate) fn chart() -> PathBuf {
    repository::path("charts/zimage-operator")
}

/// Images by their full names: the operator's own, and the defaults of new server and gateway pods.
#[derive(Clone)]
pub(crate) struct Images {
    pub(crate) operator: String,
    pub(crate) server: String,
    pub(crate) gateway: String,
}

impl Images {
    /// The images under test.
    pub(crate) fn ours() -> Result<Self> {
        Ok(Self {
            operator: by_content("operator")?,
            server: by_content("server")?,
            gateway: by_content("gateway")?,
        })
    }
}

async fn install() -> Result<()> {
    upgrade(&chart(), &Images::ours()?, &[]).await
}

/// Runs a test that changes the installation, and installs this checkout's again, however the test ends.
pub(crate) async fn restored(test: impl Future<Output = Result<()>>) -> Result<()> {
    let outcome = AssertUnwindSafe(Box::pin(test)).catch_unwind().await;
    install().await?;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// `helm upgrade --install` of a chart with these images and further values.
pub(crate) async fn upgrade(chart: &Path, images: &Images, values: &[&str]) -> Result<()> {
    let chart = chart.display().to_string();
    let images = [
        format!("image.tag={}", tag(&images.operator)),
        format!("serverImage={}", images.server),
        format!("gatewayImage={}", images.gateway),
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
    for image in &images {
        arguments.extend(["--set-string", image]);
    }
    for value in values {
        arguments.extend(["--set", value]);
    }
    helm(&arguments).await?;
    Ok(())
}
