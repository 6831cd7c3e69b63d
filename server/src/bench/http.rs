//! Whole requests: from the prompt to the PNG, over HTTP on this machine.

use super::parts::{Samples, prompt};
use crate::args::Bench;
use crate::failure::Failure;
use prometheus_client::registry::Registry;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use zimage_core::executor::Executor;
use zimage_core::limits::Limits;
use zimage_core::variant::Variant;
use zimage_engine::{Engine, EngineMetrics, EngineOptions};
use zimage_http::{Addresses, App, HttpMetrics, Identity, Shutdown, api, serve};

/// An image takes at most this long: an answer that does not come ends the measurement.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// The server, in this process, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    /// Its tasks end with it.
    _runtime: Runtime,
}

impl Server {
    /// Serves executors on a free port of this machine.
    pub(crate) fn start(executors: Vec<Box<dyn Executor>>) -> Result<Self, Failure> {
        let runtime = Runtime::new().map_err(Failure::other)?;
        let identity = Identity {
            variant: Variant::Turbo,
            alias: None,
            tier: None,
        };
        let app = App::new(identity, Limits::default(), TIMEOUT, HttpMetrics::default());
        let options = EngineOptions::default();
        let engine = Engine::start(executors, options, EngineMetrics::default());
        app.start_serving(engine.map_err(Failure::other)?);
        let addresses = Addresses {
            api: free_address().map_err(Failure::other)?,
            metrics: free_address().map_err(Failure::other)?,
        };
        let shutdown = Shutdown {
            lame_duck: Duration::ZERO,
            drain: Duration::ZERO,
        };
        let stop = CancellationToken::new();
        let router = api(app.clone());
        runtime.spawn(serve(
            app,
            router,
            Registry::default(),
            addresses,
            shutdown,
            stop,
        ));
        let server = Self {
            address: addresses.api,
            _runtime: runtime,
        };
        server.wait().map_err(Failure::other)?;
        Ok(server)
    }

    fn wait(&self) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match TcpStream::connect(self.address) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > Duration::from_secs(10) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Warms up and measures requests one after the other.
    pub(crate) fn measure(&self, args: &Bench, size: (u32, u32)) -> Result<Samples, Failure> {
        let mut number = 100_000;
        // Kept: the client's memory is not what is measured.
        let mut answer = Vec::new();
        let mut one = || {
            number += 1;
            let body = body(args, size, number);
            self.post(&body, &mut answer).map_err(Failure::other)
        };
        let warm = Instant::now();
        while warm.elapsed() < Duration::from_secs(args.warm_up_seconds) {
            one()?;
        }
        let mut samples = Samples::default();
        for _ in 0..args.requests {
            std::thread::sleep(Duration::from_secs(args.pause_seconds));
            samples.push(one()?);
        }
        Ok(samples)
    }

    /// Images a second while every place of the queue is taken.
    pub(crate) fn throughput(
        &self,
        args: &Bench,
        size: (u32, u32),
        devices: usize,
    ) -> Result<f64, Failure> {
        let clients = EngineOptions::default().max_queue_length + devices;
        let (next, images) = (AtomicUsize::new(0), 4 * clients);
        let began = Instant::now();
        let client = || {
            let mut answer = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= images {
                    return Ok(());
                }
                self.post(&body(args, size, 300_000 + number), &mut answer)?;
            }
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            let panicked = |_| io::Error::other("a client panicked");
            let mut ended = clients
                .into_iter()
                .map(|client| client.join().map_err(panicked)?);
            ended.try_for_each(|outcome: io::Result<()>| outcome)
        })
        .map_err(Failure::other)?;
        Ok(images as f64 / began.elapsed().as_secs_f64())
    }

    /// The time until the last byte of the answer is there.
    fn post(&self, body: &str, answer: &mut Vec<u8>) -> io::Result<Duration> {
        answer.clear();
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let length = body.len();
        let head = format!(
            "POST /v1/images/generations HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes())?;
        stream.read_to_end(answer)?;
        let took = began.elapsed();
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(took);
        }
        let start = String::from_utf8_lossy(&answer[..answer.len().min(2000)]).into_owned();
        Err(io::Error::other(format!("the server answered {start}")))
    }
}

fn body(args: &Bench, (width, height): (u32, u32), number: usize) -> String {
    let body = serde_json::json!({
        "model": "z-image-turbo",
        "prompt": prompt(number, args.prompt_words),
        "size": format!("{width}x{height}"),
        "num_inference_steps": args.num_inference_steps,
        "seed": number,
    });
    body.to_string()
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
