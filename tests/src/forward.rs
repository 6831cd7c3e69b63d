//! Requests to one pod's port, carried by the API server: they need no route from this machine to the pods.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A loopback address of this machine whose connections end at a pod's port, until it is dropped.
pub struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Starts to listen. Each connection opens a stream of its own to the pod.
    ///
    /// # Errors
    /// When no port of this machine can be bound.
    pub async fn start(pods: Api<Pod>, pod: &str, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("failed to bind a port")?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, pods, pod.to_owned(), port));
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

async fn serve(listener: TcpListener, pods: Api<Pod>, pod: String, port: u16) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(carry(connection, pods.clone(), pod.clone(), port));
        while connections.try_join_next().is_some() {}
    }
}

// A failure closes the connection, which is what the test's HTTP client then reports.
async fn carry(mut connection: TcpStream, pods: Api<Pod>, pod: String, port: u16) -> Result<()> {
    let mut forwarder = pods.portforward(&pod, &[port]).await?;
    let mut stream = forwarder
        .take_stream(port)
        .context("the forwarder has a stream for each port")?;
    copy_bidirectional(&mut connection, &mut stream).await?;
    drop(stream);
    forwarder.join().await?;
    Ok(())
}
