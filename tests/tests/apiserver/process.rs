//! The operator as a process of this machine that acts in one namespace.

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;
use zimage_tests::process::{Launch, Process, free_address, program};
use zimage_tests::relay::Relay;
use zimage_tests::wait;

/// How long a probe may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) struct Operator {
    process: Process,
    probes: SocketAddr,
    metrics: SocketAddr,
}

impl Operator {
    /// Starts it, with `relay` between it and the API server.
    pub(crate) fn start(
        relay: &Relay,
        namespace: &str,
        identity: &str,
        folder: &Path,
    ) -> Result<Self> {
        let (probes, metrics) = (free_address()?, free_address()?);
        let launch = Launch {
            name: identity.to_owned(),
            program: program("zimage-operator")?,
            arguments: vec![
                format!("--watch-namespace={namespace}"),
                format!("--lease-namespace={namespace}"),
                format!("--identity={identity}"),
                format!("--listen={probes}"),
                format!("--metrics-listen={metrics}"),
            ],
            environment: vec![(
                "KUBECONFIG".to_owned(),
                relay.kubeconfig(folder)?.display().to_string(),
            )],
            memory: None,
        };
        Ok(Self {
            process: Process::start(&launch, folder)?,
            probes,
            metrics,
        })
    }

    /// What `/readyz` says: nothing when the operator is ready.
    pub(crate) async fn obstacles(&self) -> Result<Option<String>> {
        let answer = get(format!("http://{}/readyz", self.probes)).await?;
        let is_ready = answer.status().is_success();
        let text = answer.text().await?;
        Ok((!is_ready).then_some(text))
    }

    /// How many deployments there are that it has reconciled since it leads.
    pub(crate) async fn followed(&self) -> Result<usize> {
        let figures = get(format!("http://{}/metrics", self.metrics)).await?;
        let figures = figures.error_for_status()?.text().await?;
        let shown = r#"zimage_operator_deployments{state="followed"} "#;
        let line = figures.lines().find_map(|line| line.strip_prefix(shown));
        Ok(line.context("the figure is shown")?.parse()?)
    }

    /// Waits until it is ready and follows `count` deployments.
    pub(crate) async fn follows(&self, count: usize, limit: Duration) -> Result<()> {
        let what = format!("{count} deployments to be followed");
        let all = async || {
            let followed = self.followed().await?;
            let obstacles = self.obstacles().await?;
            anyhow::ensure!(
                followed == count && obstacles.is_none(),
                "{followed} are, and the operator says {obstacles:?}"
            );
            Ok(Some(()))
        };
        let followed = wait::until(&what, limit, all).await;
        followed.with_context(|| self.process.told())
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.process.stop()?;
        anyhow::ensure!(status.success(), "{status}: {}", self.process.told());
        Ok(())
    }
}

async fn get(url: String) -> Result<reqwest::Response> {
    let http = reqwest::Client::new();
    Ok(http.get(url).timeout(ANSWER).send().await?)
}
