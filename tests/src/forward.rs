//! Requests into the cluster, to whose pods and Services this machine has no route.

use crate::{node, wait};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{copy_bidirectional, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const SERVICE_LIMIT: Duration = Duration::from_secs(30);

/// A loopback address of this machine whose connections end in the cluster, until it is dropped.
pub struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// A way to one pod's port, carried by the API server. Each connection opens a stream of its own.
    ///
    /// # Errors
    /// When no port of this machine can be bound.
    pub async fn start(pods: Api<Pod>, pod: &str, port: u16) -> Result<Self> {
        let pod = pod.to_owned();
        Self::listen(move |connection| to_pod(connection, pods.clone(), pod.clone(), port)).await
    }

    /// A way to a Service, `NAME.NAMESPACE`, from the node and without the API server: each connection goes to a pod of
    /// kube-proxy's choice. Waits until kube-proxy, which may be a moment behind, knows the Service.
    ///
    /// # Errors
    /// When nothing there speaks HTTP, or no port of this machine can be bound.
    pub async fn to_service(service: &str, port: u16) -> Result<Self> {
        let target = format!("{service}.svc.cluster.local:{port}");
        wait::until("the Service to be reachable", SERVICE_LIMIT, async || {
            node::exec(&["curl", "--silent", "--max-time", "1", &target]).await?;
            Ok(Some(()))
        })
        .await?;
        let target = format!("TCP:{target}");
        Self::listen(move |connection| to_node(connection, target.clone())).await
    }

    async fn listen<F, C>(carry: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("failed to bind a port")?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, carry));
        Ok(Self { address, task })
    }

    /// `http://127.0.0.1:PORT/path` for a path that starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// A connection that fails is closed, which is what the test's HTTP client then reports.
async fn serve<F, C>(listener: TcpListener, carry: F)
where
    F: Fn(TcpStream) -> C,
    C: Future<Output = Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(carry(connection));
        while connections.try_join_next().is_some() {}
    }
}

async fn to_pod(mut connection: TcpStream, pods: Api<Pod>, pod: String, port: u16) -> Result<()> {
    let mut forwarder = pods.portforward(&pod, &[port]).await?;
    let mut stream = forwarder
        .take_stream(port)
        .context("the forwarder has a stream for each port")?;
    copy_bidirectional(&mut connection, &mut stream).await?;
    drop(stream);
    forwarder.join().await?;
    Ok(())
}

async fn to_node(mut connection: TcpStream, target: String) -> Result<()> {
    let mut socat = node::command(&["socat", "STDIO", &target])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (stdin, stdout) = (socat.stdin.take(), socat.stdout.take());
    let (stdin, stdout) = stdin.zip(stdout).context("the child has pipes")?;
    copy_bidirectional(&mut connection, &mut join(stdout, stdin)).await?;
    Ok(())
}
