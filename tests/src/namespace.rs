//! A namespace for one test.

use crate::commands::kubectl;
use crate::wait;
use anyhow::{Context, Result};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

/// How the names of tests' namespaces begin.
pub const PREFIX: &str = "zimage-test-";

/// Runs `test` in a fresh namespace that enforces the restricted pod security standard, and deletes it afterwards.
/// What a failed test left in it is printed before.
///
/// # Errors
/// What `test` returns, or a failure to make or delete the namespace.
pub async fn with_namespace<F>(client: Client, test: F) -> Result<()>
where
    F: AsyncFnOnce(Client, String) -> Result<()>,
{
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {
            "generateName": PREFIX,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted", "zimage.dev/test": "true"},
        },
    }))?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let created = namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .context("failed to make a namespace")?;
    let name = created
        .meta()
        .name
        .clone()
        .context("the API server names the namespace")?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    wait::until(
        "the default service account",
        Duration::from_secs(30),
        async || Ok(accounts.get_opt("default").await?),
    )
    .await?;
    let outcome = AssertUnwindSafe(Box::pin(test(client, name.clone())))
        .catch_unwind()
        .await;
    if !matches!(outcome, Ok(Ok(()))) {
        print_state(&name).await;
    }
    namespaces
        .delete(&name, &DeleteParams::default())
        .await
        .context("failed to delete the namespace")?;
    outcome
        .unwrap_or_else(|panic| resume_unwind(panic))
        .with_context(|| format!("in namespace {name}"))
}

#[expect(
    clippy::print_stdout,
    reason = "the test's own output says why it failed"
)]
async fn print_state(namespace: &str) {
    for arguments in [
        &["describe", "zimagedeployments"][..],
        &["get", "deployments,pods,endpointslices", "--output=wide"],
        &["get", "events", "--sort-by=.lastTimestamp"],
    ] {
        let seen = kubectl(&[arguments, &["--namespace", namespace]].concat(), "").await;
        println!("{}", seen.unwrap_or_else(|error| format!("{error:#}")));
    }
}
