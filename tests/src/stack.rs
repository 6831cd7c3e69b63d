//! A gateway and servers as processes of this machine, with the real programs and a tiny model: no Kubernetes.

use crate::fake_api::{ApiServer, NAMESPACE};
use crate::manifest::valid;
use crate::process::{Launch, Process, free_address, program};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use zimage_crds::Tier;

/// Limit of a server's memory in the quick start's sample.
pub const SERVER_MEMORY: u64 = 1 << 30;
/// Limit of a gateway's memory that the operator sets.
pub const GATEWAY_MEMORY: u64 = 256 << 20;

/// A program that serves the API, and where.
#[derive(Debug)]
pub struct Served {
    /// Its process.
    pub process: Process,
    /// Address of the API and of the probes.
    pub api: SocketAddr,
    /// Address of `/metrics`.
    pub metrics: SocketAddr,
}

impl Served {
    /// The URL of a path of its API.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api)
    }

    /// What it serves as `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn figures(&self) -> Result<String> {
        let response = reqwest::get(format!("http://{}/metrics", self.metrics)).await?;
        Ok(response.error_for_status()?.text().await?)
    }
}

/// Makes a tiny model of random weights in `folder`.
///
/// # Errors
/// When the program that makes it fails.
pub fn make_model(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("model");
    let made = Command::new(program("zimage-server")?)
        .arg("make-model")
        .arg("--out")
        .arg(&path)
        .output()?;
    ensure!(
        made.status.success(),
        "make-model: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(path)
}

/// Starts a server of a tier; `arguments` come after its own. It is ready when this returns.
///
/// # Errors
/// When it does not become ready.
pub async fn start_server(
    name: &str,
    tier: Tier,
    arguments: &[String],
    memory: Option<u64>,
    folder: &Path,
) -> Result<Served> {
    let own = [
        "serve".to_owned(),
        "--alias=fox".to_owned(),
        format!("--tier={tier}"),
        "--lame-duck-seconds=0".to_owned(),
        "--drain-timeout-seconds=5".to_owned(),
    ];
    let arguments = own.into_iter().chain(arguments.iter().cloned()).collect();
    let launch = Launch {
        name: name.to_owned(),
        program: program("zimage-server")?,
        arguments,
        environment: Vec::new(),
        memory,
    };
    start(launch, folder).await
}

async fn start(mut launch: Launch, folder: &Path) -> Result<Served> {
    let (api, metrics) = (free_address()?, free_address()?);
    launch.arguments.push(format!("--listen={api}"));
    launch.arguments.push(format!("--metrics-listen={metrics}"));
    let mut process = Process::start(&launch, folder)?;
    process.ready(api).await?;
    Ok(Served {
        process,
        api,
        metrics,
    })
}

/// A gateway in front of servers.
pub struct Stack {
    /// The gateway.
    pub gateway: Served,
    /// The servers of both tiers.
    pub servers: Vec<(Tier, Served)>,
    _api: ApiServer,
    _folder: TempDir,
}

/// What a [`Stack`] is made of.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// A server of each of these tiers.
    pub tiers: Vec<Tier>,
    /// Arguments of the servers that name the model and the device. Empty: a tiny model on the CPU.
    pub server: Vec<String>,
    /// Further arguments of the gateway.
    pub gateway: Vec<String>,
    /// Whether the processes have the limits of memory that pods have.
    pub limited: bool,
}

impl Stack {
    /// Starts servers and a gateway.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut arguments = setup.server.clone();
        if arguments.is_empty() {
            let model = make_model(folder.path())?;
            arguments = vec![
                "--device=cpu".to_owned(),
                format!("--model={}", model.display()),
            ];
        }
        let memory = setup.limited.then_some(SERVER_MEMORY);
        let mut servers = Vec::new();
        for (number, tier) in setup.tiers.iter().enumerate() {
            let name = format!("{tier}-{number}");
            let server = start_server(&name, *tier, &arguments, memory, folder.path());
            servers.push((*tier, server.await?));
        }
        let addresses: Vec<_> = servers
            .iter()
            .map(|(tier, server)| (*tier, server.api))
            .collect();
        let api = ApiServer::start(&valid(), &addresses).await?;
        let gateway = start_gateway(&api, setup, folder.path()).await?;
        Ok(Self {
            gateway,
            servers,
            _api: api,
            _folder: folder,
        })
    }

    /// Fails when a process has ended; the message carries its log.
    ///
    /// # Errors
    /// See above.
    pub fn all_run(&mut self) -> Result<()> {
        let servers = self.servers.iter_mut().map(|(_, server)| server);
        for served in servers.chain([&mut self.gateway]) {
            if let Some(status) = served.process.ended()? {
                let (name, told) = (served.process.name(), served.process.told());
                anyhow::bail!("{name} ended with {status}: {told}");
            }
        }
        Ok(())
    }
}

async fn start_gateway(api: &ApiServer, setup: &Setup, folder: &Path) -> Result<Served> {
    let kubeconfig = api.kubeconfig(folder)?.display().to_string();
    let own = [
        format!("--namespace={NAMESPACE}"),
        "--name=fox".to_owned(),
        "--lame-duck-seconds=0".to_owned(),
        "--drain-timeout-seconds=5".to_owned(),
    ];
    let launch = Launch {
        name: "gateway".to_owned(),
        program: program("zimage-gateway")?,
        arguments: own
            .into_iter()
            .chain(setup.gateway.iter().cloned())
            .collect(),
        environment: vec![("KUBECONFIG".to_owned(), kubeconfig)],
        memory: setup.limited.then_some(GATEWAY_MEMORY),
    };
    start(launch, folder)
        .await
        .context("the gateway did not become ready")
}
