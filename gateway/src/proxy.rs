//! One request: its whole body, its attempts, its answer.

mod attempt;
mod body;
mod downstream;

use crate::balance::Balancer;
use crate::envelope::Answer;
use crate::in_flight::InFlight;
use crate::metrics::Metrics;
use crate::route::{Candidate, Journey};
use crate::shutdown::Presence;
use crate::topology::Topology;
use crate::watch::Known;
use async_trait::async_trait;
use attempt::{Attempt, Outcome, Request};
use body::Bodies;
use http::{Method, StatusCode, Version};
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::connectors::http::Connector;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zimage_crds::Tier;

/// Time for one read or write of the client's connection.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Seconds for which a client's connection may be idle between requests.
const KEEPALIVE_SECONDS: u64 = 60;
/// When to come again after an error that passes soon.
const SOON: Duration = Duration::from_secs(1);

/// Bounds of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Time of a request with all its attempts.
    pub request_timeout: Duration,
    /// Largest body.
    pub max_body_bytes: usize,
    /// Memory for all bodies at a time.
    pub max_buffered_bytes: usize,
}

/// The proxy, shared by all connections.
pub struct Proxy {
    known: Known,
    presence: Presence,
    metrics: Metrics,
    request_timeout: Duration,
    bodies: Bodies,
    connector: Connector,
    balancer: Mutex<Balancer>,
    in_flight: InFlight,
    /// Requests that each tier was asked for.
    turns: [AtomicUsize; 2],
}

/// What the access log says about a request.
#[derive(Default)]
struct Record {
    request_id: String,
    tier: Option<Tier>,
    pod: Option<std::net::SocketAddr>,
    attempts: u32,
    status: u16,
}

/// How the connection goes on.
enum End {
    /// The answer is complete.
    Answered,
    /// The connection is of no use any more.
    Broken,
}

impl Proxy {
    /// A proxy to the pods of `known`.
    pub fn new(known: Known, presence: Presence, metrics: Metrics, bounds: Bounds) -> Self {
        Self {
            known,
            presence,
            metrics,
            request_timeout: bounds.request_timeout,
            bodies: Bodies::new(bounds.max_body_bytes, bounds.max_buffered_bytes),
            connector: Connector::new(None),
            balancer: Mutex::default(),
            in_flight: InFlight::default(),
            turns: Default::default(),
        }
    }

    async fn handle(&self, session: &mut ServerSession, record: &mut Record) -> End {
        record.request_id = downstream::request_id(session);
        let method = session.req_header().method.clone();
        let path = session.req_header().uri.path().to_owned();
        let answer = match (&method, path.as_str()) {
            (&Method::POST, "/v1/images/generations") => {
                return self.forward(session, record).await;
            }
            (&Method::GET | &Method::HEAD, "/v1/models") => self.models(),
            (&Method::GET | &Method::HEAD, "/healthz") => Answer::text(StatusCode::OK, "ok"),
            (&Method::GET | &Method::HEAD, "/readyz") => self.readyz(),
            (_, "/v1/images/generations") => Answer::method_not_allowed(&path, &method, "POST"),
            (_, "/v1/models" | "/healthz" | "/readyz") => {
                Answer::method_not_allowed(&path, &method, "GET, HEAD")
            }
            _ => {
                let message = format!(
                    "there is no {path}; there are POST /v1/images/generations and GET /v1/models"
                );
                Answer::error(StatusCode::NOT_FOUND, "unknown_url", &message)
            }
        };
        downstream::answer(session, answer, record).await
    }

    fn topology(&self) -> Option<Arc<Topology>> {
        self.known.borrow().clone()
    }

    fn readyz(&self) -> Answer {
        let obstacle = match self.topology() {
            _ if self.presence.is_leaving() => "the gateway is shutting down",
            None => "the ZImageDeployment is not known yet",
            Some(_) => return Answer::text(StatusCode::OK, "ok"),
        };
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, obstacle)
    }

    fn models(&self) -> Answer {
        self.topology()
            .map_or_else(unknown, |topology| Answer::models(&topology.models()))
    }

    async fn forward(&self, session: &mut ServerSession, record: &mut Record) -> End {
        let deadline = tokio::time::Instant::now() + self.request_timeout;
        let body = match self.bodies.read(session).await {
            Ok(body) => body,
            Err(body::Refused::Broken) => return End::Broken,
            Err(body::Refused::Answer(answer)) => {
                // What the client still sends is not read.
                session.set_keepalive(None);
                return downstream::answer(session, answer, record).await;
            }
        };
        let attempts = self.attempts(session, &body, record);
        match tokio::time::timeout_at(deadline, attempts).await {
            Ok(Ok(end)) => end,
            Ok(Err(answer)) => downstream::answer(session, answer, record).await,
            Err(_) if session.response_written().is_some() => End::Broken,
            Err(_) => {
                let message = format!("no answer within {} s", self.request_timeout.as_secs());
                let answer = Answer::error(StatusCode::GATEWAY_TIMEOUT, "timeout", &message);
                downstream::answer(session, answer, record).await
            }
        }
    }

    /// Asks pod after pod until one answers. `Err`: what to say when none did.
    async fn attempts(
        &self,
        session: &mut ServerSession,
        body: &body::Body,
        record: &mut Record,
    ) -> Result<End, Answer> {
        let topology = self.topology().ok_or_else(unknown)?;
        let not_found = |error: crate::topology::UnknownModel| {
            Answer::error(StatusCode::NOT_FOUND, "model_not_found", &error.to_string())
        };
        let tiers = topology.tiers_with(body.model()).map_err(not_found)?;
        let first = match tiers.as_slice() {
            [only] => *only,
            _ => self
                .balancer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next(topology.weights),
        };
        let request = Request::new(session, body.bytes(), &record.request_id);
        let mut journey = Journey::new(tiers, first);
        let mut full: Option<Duration> = None;
        while let Some(candidate) = self.next(&journey) {
            record.attempts += 1;
            (record.tier, record.pod) = (Some(candidate.tier), Some(candidate.pod));
            let _occupied = self.in_flight.occupy(candidate.pod);
            let attempt = Attempt {
                connector: &self.connector,
                pod: candidate.pod,
                request: &request,
            };
            match attempt.run(session, record).await {
                Outcome::Done(end) => return Ok(end),
                // The pod closed a connection that it had answered on. It may have done so while nothing was asked, which
                // says nothing about the pod: it is asked again.
                Outcome::Stale => {
                    self.metrics.passed_on(candidate.tier, "stale");
                    tracing::debug!(pod = %candidate.pod, request_id = record.request_id, "asked again");
                }
                Outcome::PassedOn {
                    reason,
                    retry_after,
                } => {
                    self.metrics.passed_on(candidate.tier, reason);
                    tracing::info!(pod = %candidate.pod, tier = %candidate.tier, reason, request_id = record.request_id, "passed on");
                    journey.passed_on_by(candidate.pod);
                    full = full.max(retry_after);
                }
            }
        }
        (record.tier, record.pod) = (None, None);
        Err(match full {
            Some(time) => Answer::error(
                StatusCode::TOO_MANY_REQUESTS,
                "queue_full",
                "every pod's queue is full",
            )
            .retry_after(time),
            None => Answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "no pod could take the request",
            )
            .retry_after(SOON),
        })
    }

    /// Pods come and go during a request: each attempt looks anew.
    fn next(&self, journey: &Journey) -> Option<Candidate> {
        let turn = |tier| self.turns[usize::from(tier == Tier::Fallback)].load(Ordering::Relaxed);
        let candidate = journey.next(&*self.topology()?, |pod| self.in_flight.at(pod), turn)?;
        self.turns[usize::from(candidate.tier == Tier::Fallback)].fetch_add(1, Ordering::Relaxed);
        Some(candidate)
    }
}

fn unknown() -> Answer {
    let message = "the gateway does not know its ZImageDeployment yet";
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).retry_after(SOON)
}

#[async_trait]
impl HttpServerApp for Proxy {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::debug!(%error, "no request could be read");
                return None;
            }
        }
        let _held = self.presence.hold();
        session.set_read_timeout(Some(CLIENT_TIMEOUT));
        session.set_write_timeout(Some(CLIENT_TIMEOUT));
        let stays = !self.presence.is_leaving()
            && !*shutdown.borrow()
            && session.req_header().version >= Version::HTTP_11;
        session.set_keepalive(stays.then_some(KEEPALIVE_SECONDS));
        let began = Instant::now();
        self.metrics.in_flight.inc();
        let mut record = Record::default();
        let end = self.handle(&mut session, &mut record).await;
        self.metrics.in_flight.dec();
        self.metrics
            .answered(record.tier, record.status, began.elapsed());
        log(&session, &record, began.elapsed());
        match end {
            End::Broken => {
                session.shutdown().await;
                None
            }
            End::Answered => {
                let settings = HttpPersistentSettings::for_session(&session);
                let stream = session.finish().await.ok()??;
                Some(ReusedHttpStream::from_reusable_stream(stream, settings))
            }
        }
    }
}

fn log(session: &ServerSession, record: &Record, took: Duration) {
    let head = session.req_header();
    let path = head.uri.path();
    if path == "/healthz" || path == "/readyz" {
        return;
    }
    tracing::info!(
        method = %head.method,
        path,
        status = record.status,
        tier = record.tier.map_or("none", Tier::as_str),
        pod = record.pod.map(|pod| pod.to_string()),
        attempts = record.attempts,
        seconds = took.as_secs_f64(),
        bytes_in = session.body_bytes_read(),
        bytes_out = session.body_bytes_sent(),
        request_id = record.request_id,
        "request"
    );
}
