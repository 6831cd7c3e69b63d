//! The command-line programs that users call: `helm` and `kubectl`, found on `PATH`; and shell scripts.

use crate::repository;
use anyhow::{Context, Result, ensure};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What `helm` prints. Runs in the repository's root.
///
/// # Errors
/// When the program is missing or fails; the message carries what it wrote.
pub async fn helm(arguments: &[&str]) -> Result<String> {
    run("helm", arguments, "").await
}

/// What `kubectl` prints, with `input` as its standard input. Runs in the repository's root.
///
/// # Errors
/// When the program is missing or fails; the message carries what it wrote.
pub async fn kubectl(arguments: &[&str], input: &str) -> Result<String> {
    run("kubectl", arguments, input).await
}

/// What a bash script prints, with `arguments` as `$1` and so on. Runs in the repository's root.
///
/// # Errors
/// When a command in it fails; the message carries what it wrote.
pub async fn bash(script: &str, arguments: &[&str]) -> Result<String> {
    let options = ["-euo", "pipefail", "-c", script, "bash"];
    run("bash", &[&options, arguments].concat(), "").await
}

pub(crate) async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(repository::root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| {
            format!("{program} is not on PATH: run `make test`, which brings its own")
        })?;
    let mut stdin = child
        .stdin
        .take()
        .context("the child has a standard input")?;
    stdin
        .write_all(input.as_bytes())
        .await
        .context("failed to write the child's input")?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .await
        .context("failed to wait for the child")?;
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
