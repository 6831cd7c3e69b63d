//! Reads one pod's `/metrics`. A pod may be broken or hostile: time and bytes are bounded here.

use super::exposition::{Exposition, Figures};
use bytes::Bytes;
use futures::future::{Either, select};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use zimage_crds::contract::METRICS_PATH;

/// How long one pod may take, from the connection to the last byte; shorter than the interval, so that rounds of pods
/// that do not answer do not pile up.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Largest answer that is read; a server's has about 20 KiB.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Room for what hyper has read and not yet handed on, the head included.
const READ_BUFFER: usize = 16 << 10;
/// Room in the kernel for what has arrived.
const RECEIVE_BUFFER: u32 = 64 << 10;

/// Why a pod's figures could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("no whole answer within {TIMEOUT:?}")]
    Late,
    #[error("failed to connect: {0}")]
    Connect(io::Error),
    #[error("failed to read: {0}")]
    Http(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the answer has more than {MAX_BYTES} bytes")]
    TooLarge,
}

/// Every [`ScrapeError::outcome`].
pub(crate) const OUTCOMES: [&str; 5] = ["late", "unreachable", "broken", "refused", "too_large"];

impl ScrapeError {
    /// The value of the label `outcome`.
    pub(super) const fn outcome(&self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Connect(_) => "unreachable",
            Self::Http(_) => "broken",
            Self::Status(_) => "refused",
            Self::TooLarge => "too_large",
        }
    }
}

/// What the pod at `address` reports. `count` is told of every byte that is read.
///
/// A connection of its own each time: nothing of a pod outlasts its answer.
pub(super) async fn scrape(
    address: SocketAddr,
    count: impl Fn(usize),
) -> Result<Figures, ScrapeError> {
    tokio::time::timeout(TIMEOUT, exchange(address, count))
        .await
        .unwrap_or(Err(ScrapeError::Late))
}

async fn exchange(address: SocketAddr, count: impl Fn(usize)) -> Result<Figures, ScrapeError> {
    let stream = connect(address).await.map_err(ScrapeError::Connect)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    let request = Request::get(METRICS_PATH)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("an address is a valid header");
    let answer = pin!(async move {
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => read(response.into_body(), count).await,
            status => Err(ScrapeError::Status(status)),
        }
    });
    match select(answer, pin!(connection)).await {
        Either::Left((figures, _)) => figures,
        // The pod has sent everything and closed; what has arrived is still to be taken.
        Either::Right((_, answer)) => answer.await,
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect(address).await
}

async fn read(mut body: Incoming, count: impl Fn(usize)) -> Result<Figures, ScrapeError> {
    let mut exposition = Exposition::default();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        count(data.len());
        length += data.len();
        if length > MAX_BYTES {
            return Err(ScrapeError::TooLarge);
        }
        exposition.push(&data);
    }
    Ok(exposition.finish())
}
