//! The test cluster's node and its parts: commands on it, and faults.

use crate::commands::run;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use std::env;
use tokio::process::Command;

/// The command `tests/cluster/cluster` and the cluster's name; `cluster env` sets both.
fn cluster() -> Result<(String, String)> {
    let variable = |name: &str| {
        env::var(name).with_context(|| format!("{name} is not set: run `make test`, or eval what `tests/cluster/cluster env NAME` prints"))
    };
    Ok((
        variable("ZIMAGE_CLUSTER")?,
        variable("ZIMAGE_CLUSTER_NAME")?,
    ))
}

/// A command that runs on the node and ends when it is dropped.
pub(crate) fn command(arguments: &[&str]) -> Result<Command> {
    let (program, name) = cluster()?;
    let mut command = Command::new(program);
    command
        .arg("exec")
        .arg(name)
        .args(arguments)
        .kill_on_drop(true);
    Ok(command)
}

/// What a command on the node prints.
///
/// # Errors
/// When it fails; the message carries what it wrote.
pub async fn exec(arguments: &[&str]) -> Result<String> {
    let (program, name) = cluster()?;
    run(&program, &[&["exec", &name], arguments].concat(), "").await
}

/// Kills the process of a pod's only container: no signal before, no grace, no drain. The pod stays.
///
/// # Errors
/// When the container does not run.
pub async fn kill_container(pod: &Pod) -> Result<()> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let id = statuses
        .and_then(|statuses| statuses.first()?.container_id.as_ref())
        .and_then(|id| id.strip_prefix("containerd://"))
        .context("the pod has a container")?;
    let kill = [
        "ctr",
        "--namespace",
        "k8s.io",
        "task",
        "kill",
        "--signal",
        "KILL",
        id,
    ];
    exec(&kill).await?;
    Ok(())
}

/// A part of the cluster that stands still until this is dropped, such as `kube-apiserver`.
pub struct Stopped {
    part: &'static str,
}

impl Stopped {
    /// Stops it where it is, so that it neither answers nor closes a connection.
    ///
    /// # Errors
    /// When the cluster has no such part.
    pub fn new(part: &'static str) -> Result<Self> {
        signal(part, "STOP")?;
        Ok(Self { part })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Nothing is left to do about a failure, and every later test tells of it.
        let _failed = signal(self.part, "CONT");
    }
}

fn signal(part: &str, signal: &str) -> Result<()> {
    let (program, name) = cluster()?;
    let status = std::process::Command::new(program)
        .args(["kill", &name, part, signal])
        .status()?;
    anyhow::ensure!(status.success(), "failed to send {signal} to {part}");
    Ok(())
}
