//! The test cluster's nodes and their parts: commands on them, and faults.
//!
//! Each fault lasts until its value is dropped.

use crate::commands::run;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{env, thread};
use tokio::process::Command;

/// The node that has the control plane.
pub const FIRST: &str = "node1";

/// How long a slowed part works between its pauses.
const WORKING: Duration = Duration::from_millis(200);

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

/// A command that runs on the first node and ends when it is dropped.
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

/// What a command on the first node prints.
///
/// # Errors
/// When it fails; the message carries what it wrote.
pub async fn exec(arguments: &[&str]) -> Result<String> {
    exec_on(FIRST, arguments).await
}

/// What a command on a node prints.
///
/// # Errors
/// When it fails; the message carries what it wrote.
pub async fn exec_on(node: &str, arguments: &[&str]) -> Result<String> {
    let (program, name) = cluster()?;
    let place = format!("{name}/{node}");
    run(&program, &[&["exec", &place], arguments].concat(), "").await
}

/// The node that a pod runs on.
///
/// # Errors
/// When it was not scheduled yet.
pub fn of(pod: &Pod) -> Result<&str> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.context("the pod has a node")
}

/// A pod's address.
///
/// # Errors
/// When it has none yet.
pub fn address(pod: &Pod) -> Result<&str> {
    let address = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref());
    address.context("the pod has an address")
}

/// What containerd calls a pod's only container.
fn container(pod: &Pod) -> Result<&str> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .and_then(|statuses| statuses.first()?.container_id.as_ref())
        .and_then(|id| id.strip_prefix("containerd://"))
        .context("the pod has a container")
}

/// Kills the process of a pod's only container: no signal before, no grace, no drain. The pod stays.
///
/// # Errors
/// When the container does not run.
pub async fn kill_container(pod: &Pod) -> Result<()> {
    signal_container(pod, "KILL").await
}

async fn signal_container(pod: &Pod, signal: &str) -> Result<()> {
    let kill = [
        "ctr",
        "--namespace",
        "k8s.io",
        "task",
        "kill",
        "--signal",
        signal,
        container(pod)?,
    ];
    exec_on(of(pod)?, &kill).await?;
    Ok(())
}

/// A shell script on a pod's node, with the number of the container's process there as `$1` and `arguments` behind it.
async fn beside_container(pod: &Pod, script: &str, arguments: &[&str]) -> Result<String> {
    let find = r#"pid=$(ctr --namespace k8s.io task ls | awk -v id="$1" '$1 == id { print $2 }'); shift; set -- "$pid" "$@"; "#;
    let script = format!("set -eu; {find}{script}");
    let shell = ["sh", "-c", &script, "sh", container(pod)?];
    exec_on(of(pod)?, &[&shell, arguments].concat()).await
}

/// Fills the memory that a pod's container may have, from a process beside its own, until the kernel ends the container's:
/// of the two it has the higher score as long as the container requests less than its limit.
///
/// # Errors
/// When the container does not run.
pub async fn exhaust_memory(pod: &Pod) -> Result<()> {
    // The filler ends in the same way a moment later.
    let script = r#"group=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' "/proc/$1/cgroup")
        (sh -c 'echo $$ > "$0/cgroup.procs"; exec tail /dev/zero' "$group" || true)"#;
    beside_container(pod, script, &[]).await?;
    Ok(())
}

/// Writes a file of so many MiB into the pod's emptyDir volume of that name.
///
/// # Errors
/// When the pod has no such volume.
pub async fn fill_volume(pod: &Pod, volume: &str, mebibytes: u32) -> Result<()> {
    let uid = pod.metadata.uid.as_deref().context("the pod has a uid")?;
    let file =
        format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{volume}/filled");
    let length = format!("{mebibytes}M");
    exec_on(of(pod)?, &["fallocate", "--length", &length, &file]).await?;
    Ok(())
}

/// Writes a file into the root file system of a pod's container, from outside: the container itself may only read it.
///
/// # Errors
/// When the container does not run.
pub async fn write_file(pod: &Pod, path: &str, text: &str) -> Result<()> {
    // In one move: a reader sees the old text or the new.
    let script = r#"file=/run/containerd/io.containerd.runtime.v2.task/k8s.io/$1/rootfs$2
        echo "$3" > "$file.new"; mv "$file.new" "$file""#;
    let shell = ["sh", "-euc", script, "sh", container(pod)?, path, text];
    exec_on(of(pod)?, &shell).await?;
    Ok(())
}

/// The process of a pod's container, standing still: its connections stay open and nothing answers.
pub struct Frozen {
    node: String,
    container: String,
}

impl Frozen {
    /// Stops it where it is.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn new(pod: &Pod) -> Result<Self> {
        signal_container(pod, "STOP").await?;
        Ok(Self {
            node: of(pod)?.to_owned(),
            container: container(pod)?.to_owned(),
        })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let kill = [
            "ctr",
            "--namespace",
            "k8s.io",
            "task",
            "kill",
            "--signal",
            "CONT",
        ];
        // The kubelet may have replaced it meanwhile.
        let _failed = cluster().and_then(|(program, name)| {
            let place = format!("{name}/{}", self.node);
            let arguments = [&["exec", &place], &kill[..], &[self.container.as_str()]].concat();
            command_of(&program, &arguments)
        });
    }
}

/// Dropped packets between two addresses, in both directions: connections stay open and silent.
pub struct Partition {
    between: (String, String),
}

impl Partition {
    /// Drops them from now on.
    ///
    /// # Errors
    /// When iptables fails.
    pub async fn new(one: &str, other: &str) -> Result<Self> {
        let (program, name) = cluster()?;
        run(&program, &["partition", &name, one, other], "").await?;
        Ok(Self {
            between: (one.to_owned(), other.to_owned()),
        })
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // Every later test tells of a failure.
        let _failed = tell("heal", &[&self.between.0, &self.between.1]);
    }
}

/// A node whose machine failed: nothing reaches it, and then nothing runs on it.
pub struct Vanished {
    node: &'static str,
}

impl Vanished {
    /// Cuts the node's cable first, so that no connection is closed by its end.
    ///
    /// # Errors
    /// When the cluster has no such node, or it is the first, which has the control plane.
    pub fn new(node: &'static str) -> Result<Self> {
        tell("cut", &[node])?;
        let vanished = Self { node };
        tell("kill", &[node])?;
        Ok(vanished)
    }
}

impl Drop for Vanished {
    fn drop(&mut self) {
        // A node that starts brings a cable of its own. Every later test tells of a failure.
        let _failed = tell("start", &[self.node]);
    }
}

/// A part of a node that stands still until this is dropped, such as `kube-apiserver`.
pub struct Stopped {
    node: String,
    part: &'static str,
}

impl Stopped {
    /// Stops a part of the first node where it is, so that it neither answers nor closes a connection.
    ///
    /// # Errors
    /// When the node has no such part.
    pub fn new(part: &'static str) -> Result<Self> {
        Self::on(FIRST, part)
    }

    /// The same on any node.
    ///
    /// # Errors
    /// When the node has no such part.
    pub fn on(node: &str, part: &'static str) -> Result<Self> {
        signal(node, part, "STOP")?;
        let node = node.to_owned();
        Ok(Self { node, part })
    }
}

fn signal(node: &str, part: &str, signal: &str) -> Result<()> {
    let (program, name) = cluster()?;
    command_of(&program, &["kill", &format!("{name}/{node}"), part, signal])
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Nothing is left to do about a failure, and every later test tells of it.
        let _failed = signal(&self.node, self.part, "CONT");
    }
}

/// A part of the first node that works for a moment and then stands still for a while, again and again: what it is asked for
/// takes up to that long.
pub struct Slowed {
    end: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Slowed {
    /// Slows `part` to an answer each `pause`.
    pub fn new(part: &'static str, pause: Duration) -> Self {
        let (end, ended) = channel();
        let waits = move |time| ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        let thread = thread::spawn(move || {
            while let Ok(stopped) = Stopped::new(part)
                && waits(pause)
            {
                drop(stopped);
                if !waits(WORKING) {
                    break;
                }
            }
        });
        Self {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            let _ended = thread.join();
        }
    }
}

/// Runs a command of `tests/cluster/cluster` about this cluster.
fn tell(command: &str, arguments: &[&str]) -> Result<()> {
    let (program, name) = cluster()?;
    command_of(&program, &[&[command, &name], arguments].concat())
}

fn command_of(program: &str, arguments: &[&str]) -> Result<()> {
    let status = std::process::Command::new(program)
        .args(arguments)
        .status()?;
    ensure!(status.success(), "cluster {} failed", arguments.join(" "));
    Ok(())
}
