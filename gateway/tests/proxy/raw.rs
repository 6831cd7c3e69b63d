//! Pods that speak bytes, not HTTP: what they get is counted, what they answer is set by the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a pod does with a POST. Any other request is answered 200, but by a pod that is frozen.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Answers 200 with its port.
    Answer,
    /// Reads the whole request and holds it until the pod does something else.
    Compute,
    /// Reads the whole request and holds it for ever.
    Hold,
    /// Reads the whole request, then resets the connection.
    Die,
    /// Takes connections and does nothing, whatever comes.
    Freeze,
    /// Sends bytes after the whole request, then closes.
    Say(Vec<u8>),
    /// The same without closing.
    SayAndStay(Vec<u8>),
    /// Sends bytes after the head alone, then closes.
    SayAtOnce(Vec<u8>),
}

#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    does: Arc<Mutex<Does>>,
    posts: Arc<AtomicUsize>,
    body_bytes: Arc<AtomicUsize>,
}

impl Raw {
    pub(crate) async fn start(does: Does) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::on(listener, does)
    }

    pub(crate) fn on(listener: TcpListener, does: Does) -> Self {
        let raw = Self {
            address: listener.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            posts: Arc::default(),
            body_bytes: Arc::default(),
        };
        let pod = raw.clone();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let pod = pod.clone();
                tokio::spawn(async move { pod.serve(connection).await });
            }
        });
        raw
    }

    pub(crate) async fn several(count: usize, does: Does) -> Vec<Self> {
        let mut pods = Vec::new();
        for _ in 0..count {
            pods.push(Self::start(does.clone()).await);
        }
        pods
    }

    pub(crate) fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// POSTs that came.
    pub(crate) fn posts(&self) -> usize {
        self.posts.load(Ordering::SeqCst)
    }

    /// Bytes of their bodies that came.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body_bytes.load(Ordering::SeqCst)
    }

    async fn serve(&self, mut connection: TcpStream) {
        while self.one(&mut connection).await.is_some() {}
    }

    /// None: the connection ends.
    async fn one(&self, connection: &mut TcpStream) -> Option<()> {
        if matches!(*self.does.lock().unwrap(), Does::Freeze) {
            return std::future::pending().await;
        }
        let mut seen = Vec::new();
        let end = loop {
            if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            read(connection, &mut seen).await?;
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        if !head.starts_with("post") {
            return self.answer(connection).await;
        }
        self.posts.fetch_add(1, Ordering::SeqCst);
        let mut does = self.does.lock().unwrap().clone();
        if let Does::SayAtOnce(bytes) = does {
            connection.write_all(&bytes).await.ok()?;
            let mut rest = seen.split_off(end);
            let more = async { while read(connection, &mut rest).await.is_some() {} };
            let _over = tokio::time::timeout(Duration::from_millis(200), more).await;
            self.body_bytes.fetch_add(rest.len(), Ordering::SeqCst);
            return None;
        }
        while seen.len() < end + length {
            read(connection, &mut seen).await?;
        }
        self.body_bytes.fetch_add(length, Ordering::SeqCst);
        while matches!(does, Does::Compute) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            does = self.does.lock().unwrap().clone();
        }
        match does {
            Does::Answer => self.answer(connection).await,
            Does::Freeze | Does::Compute | Does::Hold => std::future::pending().await,
            Does::Die => {
                connection.set_zero_linger().unwrap();
                None
            }
            Does::Say(bytes) => {
                connection.write_all(&bytes).await.ok()?;
                // The other side reads before the connection ends.
                tokio::time::sleep(Duration::from_millis(50)).await;
                None
            }
            Does::SayAndStay(bytes) => connection.write_all(&bytes).await.ok(),
            Does::SayAtOnce(_) => None,
        }
    }

    async fn answer(&self, connection: &mut TcpStream) -> Option<()> {
        let body = format!("{{\"port\":{}}}", self.address.port());
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        connection.write_all((head + &body).as_bytes()).await.ok()
    }
}

async fn read(connection: &mut TcpStream, seen: &mut Vec<u8>) -> Option<()> {
    let read = connection.read_buf(seen).await.ok()?;
    (read > 0).then_some(())
}

pub(crate) fn addresses(pods: &[Raw]) -> Vec<SocketAddr> {
    pods.iter().map(|pod| pod.address).collect()
}

pub(crate) fn posts(pods: &[Raw]) -> usize {
    pods.iter().map(Raw::posts).sum()
}

/// An answer without a body.
pub(crate) fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}
