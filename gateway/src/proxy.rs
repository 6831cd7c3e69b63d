//! One request: its whole body, its attempts, its answer.

mod body;
mod downstream;

use crate::envelope::Answer;
use crate::forward::Forward;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::shutdown::Presence;
use crate::topology::Topology;
use crate::watch::Known;
use async_trait::async_trait;
use body::Bodies;
use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use std::sync::Arc;
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
    forward: Arc<Forward>,
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
    pub fn new(
        forward: Arc<Forward>,
        known: Known,
        presence: Presence,
        metrics: Metrics,
        bounds: Bounds,
    ) -> Self {
        Self {
            forward,
            known,
            presence,
            metrics,
            request_timeout: bounds.request_timeout,
            bodies: Bodies::new(bounds.max_body_bytes, bounds.max_buffered_bytes),
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

    async fn attempts(
        &self,
        session: &mut ServerSession,
        body: &body::Body,
        record: &mut Record,
    ) -> Result<End, Answer> {
        let client = session.client_addr().and_then(|address| address.as_inet());
        record.client = client.copied();
        let head = session.req_header().as_owned_parts();
        let answer = tokio::select! {
            answer = self.forward.request(&head, body.bytes(), body.model(), record) => Some(answer?),
            // The client sends nothing more: whatever happens there is its end. The pod learns of it by the reset.
            _ = session.read_body_or_idle(true) => None,
        };
        let Some(answer) = answer else {
            record.status = 499;
            return Ok(End::Broken);
        };
        Ok(match relay(answer, session).await {
            Ok(()) => End::Answered,
            Err(error) => {
                tracing::debug!(%error, "the answer broke off");
                End::Broken
            }
        })
    }
}

async fn relay(
    answer: http::Response<http_body_util::combinators::BoxBody<Bytes, tower::BoxError>>,
    session: &mut ServerSession,
) -> Result<(), tower::BoxError> {
    let (head, mut body) = answer.into_parts();
    let head = ResponseHeader::from(head);
    session.write_response_header(Box::new(head)).await?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            session.write_response_body(data, false).await?;
        }
    }
    Ok(session.write_response_body(Bytes::new(), true).await?)
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
