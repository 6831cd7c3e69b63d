//! A site behind the edge, and clients that speak bytes.

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use prometheus_client::registry::Registry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use zimage_edge::{
    Body, BodyLimits, Bounds, Budget, BudgetOptions, Metrics, Policy, Refusal, ResponseBody, Site,
    Stop, Times, body, serve, whole,
};

/// Nothing takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BODY: usize = 4 << 20;

pub(crate) const BOUNDS: Bounds = Bounds {
    connections: 100,
    times: Times {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(60),
    },
};

/// Answers a body's length; `/wait` once it may, `/large` with many bytes, `/panic` not at all.
pub(crate) struct Echo {
    budget: Budget,
    policy: Policy,
    pub(crate) may_answer: Semaphore,
    begun: mpsc::UnboundedSender<&'static str>,
}

/// Tells that a handler was dropped before it answered.
struct Cancelled(Option<mpsc::UnboundedSender<&'static str>>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(events) = self.0.take() {
            // A test that does not look has ended.
            let _seen = events.send("cancelled");
        }
    }
}

fn text(text: impl Into<Bytes>) -> Response<ResponseBody> {
    Response::new(whole(Full::new(text.into())))
}

impl Site for Echo {
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        (head.uri.path() == "/healthz").then(|| Response::new(Full::new("ok".into())))
    }

    fn check(&self, head: &Parts, _: SocketAddr) -> Result<(), Refusal> {
        self.policy.check(head)
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let held = match body::read(&self.budget, &head, body, BodyLimits::of(BODY)).await {
            Ok(held) => held,
            Err(refusal) => {
                return refusal.into_response(true).map(whole);
            }
        };
        match head.uri.path() {
            "/panic" => panic!("as the test wants"),
            "/large" => text(vec![b'x'; 64 << 20]),
            "/wait" => {
                let mut cancelled = Cancelled(Some(self.begun.clone()));
                self.begun.send("begun").unwrap();
                self.may_answer.acquire().await.unwrap().forget();
                cancelled.0 = None;
                text(held.bytes.len().to_string())
            }
            _ => text(held.bytes.len().to_string()),
        }
    }
}

pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) site: Arc<Echo>,
    pub(crate) stop: Stop,
    pub(crate) events: mpsc::UnboundedReceiver<&'static str>,
    pub(crate) ended: tokio::task::JoinHandle<std::io::Result<()>>,
    metrics: Metrics,
}

pub(crate) async fn stage(bounds: Bounds) -> Stage {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, stop) = (Metrics::default(), Stop::default());
    let options = BudgetOptions {
        total: 16 << 20,
        client_parts: 4,
        largest: BODY,
        answers: 0,
    };
    let (begun, events) = mpsc::unbounded_channel();
    let site = Arc::new(Echo {
        budget: Budget::new(options, metrics.clone()),
        policy: Policy::default(),
        may_answer: Semaphore::new(0),
        begun,
    });
    let serving = serve(
        listener,
        Arc::clone(&site),
        bounds,
        metrics.clone(),
        stop.clone(),
    );
    Stage {
        address,
        site,
        stop,
        events,
        ended: tokio::spawn(serving),
        metrics,
    }
}

impl Stage {
    pub(crate) async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// What a client gets for these bytes until the connection ends or is silent.
    pub(crate) async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.all().await
    }

    pub(crate) fn figures(&self) -> String {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    pub(crate) fn rejected(&self, reason: &str) -> u64 {
        let label = format!("rejected_total{{reason=\"{reason}\",listener=\"api\"}} ");
        let figures = self.figures();
        let line = figures.lines().find_map(|line| line.strip_prefix(&label));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until the figures show a line.
    pub(crate) async fn shows(&self, line: &str) {
        let shown = async {
            while !self.figures().lines().any(|shown| shown == line) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, shown).await;
        assert!(outcome.is_ok(), "no {line} in {}", self.figures());
    }

    pub(crate) async fn event(&mut self) -> &'static str {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.unwrap().unwrap()
    }
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A server that has refused the request may have closed the connection.
        let _sent = self.0.write_all(bytes.as_ref()).await;
    }

    /// Everything up to the connection's end.
    pub(crate) async fn all(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await;
        let _end = read.expect("the connection does not end");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything up to some text.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let byte = tokio::time::timeout(PATIENCE, self.0.read_u8()).await;
            let byte = byte.unwrap_or_else(|_| panic!("no {end:?}"));
            bytes.push(byte.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&bytes))
            }));
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// A whole request.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}
