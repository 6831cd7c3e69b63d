//! What the operator renders is what the server and the gateway take.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use zimage_crds::ZImageDeployment;
use zimage_operator::reconcile::build::{Images, children};
use zimage_tests::manifest::{Change, valid};
use zimage_tests::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program that was built beside this test.
fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test lies in target/PROFILE/deps")?;
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "there is no {}: run `make test`, or `cargo build --release --workspace`",
        path.display()
    );
    Ok(path)
}

/// The container of a part as the operator renders it, on the CPU.
fn container(part: &str) -> Result<Value> {
    rendered(part, valid())
}

/// The container of a part of a deployment whose tiers have GPUs.
fn container_with_gpu(part: &str) -> Result<Value> {
    let gpu = json!({"product": "NVIDIA-H800"});
    let manifest = valid().with("spec.primary.gpu", gpu.clone());
    rendered(part, manifest.with("spec.fallback.gpu", gpu))
}

fn rendered(part: &str, manifest: Value) -> Result<Value> {
    let manifest = manifest.with("metadata.namespace", json!("art")).with(
        "spec.primary.model.source.persistentVolumeClaim.path",
        json!("turbo"),
    );
    let owner: ZImageDeployment = serde_json::from_value(manifest)?;
    let image = |name: &str| name.to_owned();
    let images = Images {
        primary: image("p"),
        fallback: image("f"),
        gateway: image("g"),
    };
    let name = format!("fox-{part}");
    let children = children(&owner, images)?;
    let deployment = children
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .find(|child| child["kind"] == "Deployment" && child["metadata"]["name"] == name.as_str())
        .with_context(|| format!("no Deployment {name}"))?;
    Ok(deployment["spec"]["template"]["spec"]["containers"][0].clone())
}

fn arguments(container: &Value) -> Vec<String> {
    let arguments = container["args"].as_array().into_iter().flatten();
    arguments
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn port(container: &Value, name: &str) -> Option<u64> {
    let ports = container["ports"].as_array()?;
    ports.iter().find(|port| port["name"] == name)?["containerPort"].as_u64()
}

/// clap reads the flags from left to right and stops at `--help`: an unknown one or a bad value before it is an error.
fn takes(program_name: &str, arguments: &[String]) -> Result<()> {
    let output = Command::new(program(program_name)?)
        .args(arguments)
        .arg("--help")
        .output()?;
    ensure!(
        output.status.success(),
        "{program_name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn each_program_takes_the_arguments_that_it_is_given() -> Result<()> {
    for part in ["primary", "fallback"] {
        for container in [container(part)?, container_with_gpu(part)?] {
            let arguments = arguments(&container);
            takes("zimage-server", &arguments)?;
            takes("zimage-testserver", &arguments)?;
        }
    }
    takes("zimage-gateway", &arguments(&container("gateway")?))
}

#[test]
fn ports_and_listen_addresses_agree() -> Result<()> {
    for (part, http) in [("primary", 8000), ("fallback", 8000), ("gateway", 8080)] {
        let container = container(part)?;
        let arguments = arguments(&container);
        assert!(
            arguments.contains(&format!("--listen=0.0.0.0:{http}")),
            "{arguments:?}"
        );
        assert!(
            arguments.contains(&"--metrics-listen=0.0.0.0:9090".to_owned()),
            "{arguments:?}"
        );
        assert_eq!(
            (port(&container, "http"), port(&container, "metrics")),
            (Some(http), Some(9090))
        );
    }
    Ok(())
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[tokio::test]
async fn a_server_started_as_the_operator_starts_it_answers_its_probes_and_shows_the_figures_that_are_read()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let model = folder.path().join("turbo");
    let made = Command::new(program("zimage-server")?)
        .args(["make-model", "--out"])
        .arg(&model)
        .status()?;
    ensure!(made.success(), "make-model failed");
    let container = container("primary")?;
    let (api, metrics) = (free_address()?, free_address()?);
    let arguments =
        arguments(&container)
            .into_iter()
            .map(|argument| match argument.split_once('=') {
                Some(("--model", _)) => format!("--model={}", model.display()),
                Some(("--listen", _)) => format!("--listen={api}"),
                Some(("--metrics-listen", _)) => format!("--metrics-listen={metrics}"),
                _ => argument,
            });
    let server = Command::new(program("zimage-server")?)
        .args(arguments)
        .stderr(Stdio::null())
        .spawn()?;
    let _server = Running(server);

    let http = reqwest::Client::new();
    let get = async |address: SocketAddr, path: &str| -> Result<String> {
        let response = http
            .get(format!("http://{address}{path}"))
            .send()
            .await?
            .error_for_status()?;
        Ok(response.text().await?)
    };
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"]
            .as_str()
            .context("an HTTP probe")?;
        assert_eq!(container[probe]["httpGet"]["port"], "http");
        wait::until(path, PATIENCE, async || Ok(Some(get(api, path).await?))).await?;
    }
    let figures = get(metrics, "/metrics").await?;
    for family in ["zimage_requests_waiting", "zimage_requests_running"] {
        assert!(
            figures
                .lines()
                .any(|line| line.starts_with(&format!("{family} "))),
            "no {family} in {figures}"
        );
    }
    Ok(())
}
