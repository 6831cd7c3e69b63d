//! One request: its whole body, its attempts, its answer.

mod visit;

use crate::endpoints::{self, Kind, Missing};
use crate::envelope::Answer;
use crate::forward::Forward;
use crate::metrics::Metrics;
use crate::model::{self, TooLong};
use crate::retry_after::jittered;
use crate::topology::Topology;
use crate::watch::Known;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use visit::Visit;
use zimage_edge::{
    Body, BodyLimits, Budget, BudgetOptions, Policy, Refusal, ResponseBody, Site, body, budget,
    whole,
};

/// When to come again after an error that passes soon.
const SOON: Duration = Duration::from_secs(1);
/// Large bodies whose model is looked for at a time.
const SEARCHES: usize = 2;

/// Bounds of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Time of a request with all its attempts.
    pub request_timeout: Duration,
    /// Largest body.
    pub max_body_bytes: usize,
    /// Memory for all bodies at a time.
    pub max_buffered_bytes: usize,
    /// One client has one part in so many of that memory, while others have some too.
    pub client_parts: usize,
}

/// The proxy, shared by all connections.
pub struct Proxy {
    forward: Arc<Forward>,
    known: Known,
    metrics: Metrics,
    request_timeout: Duration,
    limits: BodyLimits,
    budget: Budget,
    policy: Policy,
    searches: Semaphore,
    leaving: CancellationToken,
}

impl Proxy {
    /// A proxy to the pods of `known`, which is not ready once `leaving` is cancelled.
    pub fn new(
        forward: Arc<Forward>,
        known: Known,
        metrics: Metrics,
        bounds: Bounds,
        policy: Policy,
        leaving: CancellationToken,
    ) -> Self {
        let options = BudgetOptions {
            total: bounds.max_buffered_bytes,
            client_parts: bounds.client_parts,
            largest: bounds.max_body_bytes,
            answers: 0,
        };
        Self {
            forward,
            known,
            budget: Budget::new(options, metrics.edge.clone()),
            metrics,
            request_timeout: bounds.request_timeout,
            limits: BodyLimits::of(bounds.max_body_bytes),
            policy,
            searches: Semaphore::new(SEARCHES),
            leaving,
        }
    }

    fn topology(&self) -> Option<Arc<Topology>> {
        self.known.borrow().clone()
    }

    fn readyz(&self) -> Answer {
        let obstacle = match self.topology() {
            _ if self.leaving.is_cancelled() => "the gateway is shutting down",
            None => "the ZImageDeployment is not known yet",
            Some(_) => return Answer::text(StatusCode::OK, "ok"),
        };
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, obstacle)
    }

    fn models(&self) -> Answer {
        self.topology()
            .map_or_else(unknown, |topology| Answer::models(&topology.models()))
    }

    /// What the gateway says itself; `None` for what pods answer.
    fn own(&self, head: &Parts) -> Option<Answer> {
        let path = head.uri.path();
        Some(match endpoints::find(&head.method, path) {
            Ok(Kind::Images) => return None,
            Ok(Kind::Models) => self.models(),
            Ok(Kind::Healthz) => Answer::text(StatusCode::OK, "ok"),
            Ok(Kind::Readyz) => self.readyz(),
            Err(Missing::Method(allow)) => Answer::method_not_allowed(path, &head.method, allow),
            Err(Missing::Path) => Answer::unknown_path(path),
        })
    }

    async fn images(
        &self,
        head: &Parts,
        body: Body,
        visit: &mut Visit,
    ) -> Result<Response<ResponseBody>, Answer> {
        if let Some(answer) = self.forward.is_full() {
            return Err(answer);
        }
        let held = match body::read(&self.budget, head, body, self.limits).await {
            Ok(held) => held,
            // What the client still sends is not read.
            Err(refusal) => return Ok(refusal.into_response(true).map(whole)),
        };
        visit.received(held.bytes.len());
        let model = self
            .model(&held.bytes)
            .await
            .map_err(|TooLong| too_long())?;
        let bytes = held.bytes.clone();
        let request = self
            .forward
            .request(head, bytes, model.as_deref(), visit.record());
        // The body's memory is held until a pod has answered: until then another pod may be asked.
        let answer = request.await?;
        Ok(answer.map(BodyExt::boxed_unsync))
    }

    /// The model that a body names. A large body is looked through elsewhere than where requests are served.
    async fn model(&self, body: &Bytes) -> Result<Option<String>, TooLong> {
        if body.len() <= budget::SMALL {
            return model::named(body);
        }
        let Ok(_permit) = self.searches.acquire().await else {
            return Ok(None);
        };
        let body = body.clone();
        let search = tokio::task::spawn_blocking(move || model::named(&body));
        search.await.unwrap_or(Ok(None))
    }
}

impl Site for Proxy {
    fn at_once(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        match endpoints::find(&head.method, head.uri.path()) {
            Ok(Kind::Healthz | Kind::Readyz) => self.own(head).map(Answer::into_response),
            _ => None,
        }
    }

    fn check(&self, head: &Parts, _: SocketAddr) -> Result<(), Refusal> {
        self.policy.check(head)
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let deadline = Instant::now() + self.request_timeout;
        let mut visit = Visit::begin(self.metrics.clone(), &head);
        let answer = match self.own(&head) {
            Some(answer) => Err(answer),
            None => timeout_at(deadline, self.images(&head, body, &mut visit))
                .await
                .unwrap_or_else(|_| Err(too_late(self.request_timeout))),
        };
        let response = answer.unwrap_or_else(|answer| answer.into_response().map(whole));
        visit.answered(response, deadline)
    }
}

fn unknown() -> Answer {
    let message = "the gateway does not know its ZImageDeployment yet";
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        .retry_after(jittered(SOON))
}

fn too_long() -> Answer {
    let message = format!(
        "there is no model whose name is longer than {} bytes; GET /v1/models names those that there are",
        model::MOST_BYTES
    );
    Answer::error(StatusCode::NOT_FOUND, "model_not_found", &message)
}

fn too_late(time: Duration) -> Answer {
    let message = format!("no answer within {} s", time.as_secs());
    Answer::error(StatusCode::GATEWAY_TIMEOUT, "timeout", &message)
}
