//! What the operator renders is what the server and the gateway take.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::RoleRef;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use zimage_crds::contract::{
    GATEWAY_PORT, GPU_FAULT_WATCH, GPU_UTILIZATION, METRICS_PATH, METRICS_PORT, REQUESTS_WAITING,
    SERVER_PORT,
};
use zimage_crds::{PerTier, ZImageDeployment};
use zimage_operator::decide::rollout::Images;
use zimage_operator::reconcile::build::{Desired, build};
use zimage_operator::reconcile::{DEVICE_FAILED, MODEL_INVALID};
use zimage_tests::manifest::{Change, valid};
use zimage_tests::process::program;
use zimage_tests::{repository, wait};

const PATIENCE: Duration = Duration::from_secs(60);

/// The container of a part as the operator renders it, on the CPU.
fn container(part: &str) -> Result<Value> {
    rendered(part, valid())
}

/// The container of a part of a deployment whose tiers have GPUs, and whose requests have limits.
fn container_with_gpu(part: &str) -> Result<Value> {
    let gpu = json!({"product": "NVIDIA-H800"});
    let limits = json!({"maxImages": 4, "maxPixels": 1_048_576, "maxSteps": 50, "maxCost": 500});
    let manifest = valid()
        .with("spec.limits", limits)
        .with("spec.primary.gpu", gpu.clone());
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
        servers: PerTier {
            primary: image("p"),
            fallback: image("f"),
        },
        gateway: image("g"),
    };
    let name = format!("fox-{part}");
    let wanted = build(&Desired {
        gateway_role: &RoleRef::default(),
        owner: &owner,
        images,
        replicas: PerTier::from_fn(|_| 1),
        peers: None,
        lacking: Vec::new(),
    })?;
    let children = wanted.children(None)?;
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
    for (part, http) in [
        ("primary", SERVER_PORT),
        ("fallback", SERVER_PORT),
        ("gateway", GATEWAY_PORT),
    ] {
        let container = container(part)?;
        let arguments = arguments(&container);
        assert!(
            arguments.contains(&format!("--listen=0.0.0.0:{http}")),
            "{arguments:?}"
        );
        assert!(
            arguments.contains(&format!("--metrics-listen=0.0.0.0:{METRICS_PORT}")),
            "{arguments:?}"
        );
        assert_eq!(
            (port(&container, "http"), port(&container, "metrics")),
            (Some(http.into()), Some(METRICS_PORT.into()))
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

/// A server as the operator starts it, with a tiny model and ports of its own.
struct Server {
    container: Value,
    api: SocketAddr,
    metrics: SocketAddr,
    _process: Running,
    _model: TempDir,
}

impl Server {
    async fn start() -> Result<Self> {
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
        let process = Command::new(program("zimage-server")?)
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self {
            container,
            api,
            metrics,
            _process: Running(process),
            _model: folder,
        };
        for probe in ["livenessProbe", "readinessProbe"] {
            server.answers(probe).await?;
        }
        Ok(server)
    }

    /// Waits until a probe of the container succeeds.
    async fn answers(&self, probe: &str) -> Result<()> {
        let probe = &self.container[probe]["httpGet"];
        ensure!(probe["port"] == "http", "{probe}");
        let path = probe["path"].as_str().context("an HTTP probe")?;
        let get = async || Ok(Some(get(self.api, path).await?));
        wait::until(path, PATIENCE, get).await.map(drop)
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let response = reqwest::get(format!("http://{address}{path}")).await?;
    Ok(response.error_for_status()?.text().await?)
}

#[tokio::test]
async fn a_server_started_as_the_operator_starts_it_answers_its_probes_and_shows_the_queue()
-> Result<()> {
    let server = Server::start().await?;
    let figures = get(server.metrics, METRICS_PATH).await?;
    for family in [REQUESTS_WAITING, "zimage_requests_running"] {
        let sample = format!("{family} ");
        assert!(
            figures.lines().any(|line| line.starts_with(&sample)),
            "no {family} in {figures}"
        );
    }
    Ok(())
}

/// A server shows it only where there is a GPU, so the sources are asked.
#[test]
fn the_utilisation_is_shown_by_the_name_that_the_operator_reads() {
    for (source, name) in [
        ("server/nvml/src/figures.rs", GPU_UTILIZATION),
        ("server/nvml/src/health.rs", GPU_FAULT_WATCH),
        ("tests/testserver/src/load.rs", GPU_UTILIZATION),
    ] {
        let name = format!("\"{name}\"");
        assert!(repository::read(source).contains(&name), "{source}");
    }
}

#[tokio::test]
async fn gateway_and_server_take_bodies_of_one_size() -> Result<()> {
    let gateway = arguments(&container("gateway")?);
    let most = gateway
        .iter()
        .find_map(|argument| argument.strip_prefix("--max-body-bytes="))
        .context("the gateway has a bound")?
        .parse()?;
    let server = Server::start().await?;
    let url = format!("http://{}/v1/images/generations", server.api);
    let post = async |length: usize| -> Result<u16> {
        // Only image files make a body large.
        let mut body = br#"{"image":""#.to_vec();
        body.resize(length, b'a');
        let request = reqwest::Client::new().post(&url).body(body);
        let request = request.header("content-type", "application/json");
        Ok(request.send().await?.status().as_u16())
    };
    assert_eq!(post(most).await?, 400, "read, though it is no JSON");
    let refused = announced(server.api, most + 1)?;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    Ok(())
}

/// The answer to a body that is announced and never sent.
fn announced(server: SocketAddr, length: usize) -> Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json";
    write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n")?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

/// No machine without a GPU has a fault of one, so the sources are asked.
#[test]
fn the_fault_of_a_device_is_told_in_the_words_that_the_operator_looks_for() {
    for source in ["server/src/failure.rs", "tests/testserver/src/main.rs"] {
        let words = format!("{DEVICE_FAILED} {{");
        assert!(repository::read(source).contains(&words), "{source}");
    }
}

#[test]
fn the_fault_of_a_model_is_told_in_the_words_that_the_operator_looks_for() -> Result<()> {
    let server = Command::new(program("zimage-server")?)
        .args(["serve", "--model=/nowhere"])
        .args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"])
        .output()?;
    let log = [server.stdout, server.stderr].concat();
    let log = String::from_utf8_lossy(&log);
    assert_eq!(server.status.code(), Some(3), "{log}");
    assert!(log.contains(&format!("{MODEL_INVALID} ")), "{log}");
    Ok(())
}
