//! Connections to the API server: no call waits without end, and what changes anything asks the lead first.
//!
//! A machine that drops packets is found by TCP (keep-alive, and a limit for what is not acknowledged), whatever a call
//! waits for. So a slow answer may take its time, and a write that could not be delivered is not delivered later.

use crate::leader::Lead;
use futures::future::{BoxFuture, Either};
use http::{Method, Request, Response};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, Service, ServiceBuilder};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(4);
/// How long sent bytes may stay unacknowledged before the connection is given up: with the lead's own deadline shorter than
/// the lease's, so that nothing which a former leader sent is still on its way when another leads.
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);
/// Silence after which the peer is asked whether it still lives, and the time between two questions.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long the answer to a call may take; a slow etcd needs seconds for a write.
const CALL: Duration = Duration::from_secs(20);
/// How long a list's answer may take to begin: in a large, busy cluster a minute and more.
const LIST: Duration = Duration::from_secs(120);

/// A call was not made, or not answered in time.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("this process does not lead, so it changes nothing")]
    NoLead,
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// A client that reads, and writes what needs no lead: the lease itself.
///
/// # Errors
/// When the configuration's certificates or credentials cannot be used.
pub fn unguarded(config: &Config) -> kube::Result<Client> {
    connect(config, None)
}

/// A client whose writes are refused, and those under way dropped, from the moment at which `lead` ends.
///
/// # Errors
/// When the configuration's certificates or credentials cannot be used.
pub fn guarded(config: &Config, lead: Lead) -> kube::Result<Client> {
    connect(config, Some(lead))
}

fn connect(config: &Config, lead: Option<Lead>) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let connections: legacy::Client<_, Body> =
        legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Bounded {
            inner: connections,
            lead,
        });
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Deadlines, and the lead's word, right before a request leaves.
#[derive(Clone)]
struct Bounded<S> {
    inner: S,
    lead: Option<Lead>,
}

impl<S, B> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reads = request.method() == Method::GET;
        let lead = self.lead.clone().filter(|_| !reads);
        if lead.as_ref().is_some_and(|lead| !lead.holds()) {
            return Box::pin(async { Err(CallError::NoLead.into()) });
        }
        let limit = if reads && is_list(request.uri()) {
            LIST
        } else {
            CALL
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let lost = match &lead {
                Some(lead) => Either::Left(lead.lost()),
                None => Either::Right(std::future::pending()),
            };
            tokio::select! {
                // First: an expired lead is noticed before another byte is sent.
                biased;
                () = lost => Err(CallError::NoLead.into()),
                answer = tokio::time::timeout(limit, answer) => match answer {
                    Ok(answer) => answer.map_err(Into::into),
                    Err(_elapsed) => Err(CallError::Late(limit).into()),
                },
            }
        })
    }
}

/// A list carries its options in the query, as a watch does; a read of one object has none.
fn is_list(uri: &http::Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    !query.is_empty() && !query.split('&').any(|option| option == "watch=true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tower::ServiceExt;

    /// Counts the requests that reach it and answers after `delay`.
    fn bounded(
        lead: &Lead,
        delay: Duration,
        reached: &Arc<AtomicUsize>,
    ) -> impl Service<
        Request<Body>,
        Response = Response<Body>,
        Error = BoxError,
        Future: Future<Output = Result<Response<Body>, BoxError>>,
    > {
        let reached = Arc::clone(reached);
        Bounded {
            inner: tower::service_fn(move |_| {
                let reached = Arc::clone(&reached);
                async move {
                    tokio::time::sleep(delay).await;
                    reached.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(Response::new(Body::empty()))
                }
            }),
            lead: Some(lead.clone()),
        }
    }

    fn request(method: Method) -> Request<Body> {
        let request = Request::builder().method(method).uri("/api/v1/services/a");
        request.body(Body::empty()).unwrap()
    }

    async fn outcome(lead: &Lead, method: Method, delay: Duration) -> (Result<(), String>, usize) {
        let reached = Arc::default();
        let answer = bounded(lead, delay, &reached)
            .oneshot(request(method))
            .await;
        let outcome = answer.map(drop).map_err(|error| error.to_string());
        (outcome, reached.load(Ordering::Relaxed))
    }

    const SOON: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_writes_and_everybody_reads() {
        let lead = Lead::default();
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let (refused, reached) = outcome(&lead, method, SOON).await;
            let error = refused.unwrap_err();
            assert!(error.contains("does not lead"), "{error}");
            assert_eq!(reached, 0);
        }
        assert_eq!(outcome(&lead, Method::GET, SOON).await, (Ok(()), 1));
        lead.renewed(tokio::time::Instant::now());
        assert_eq!(outcome(&lead, Method::PATCH, SOON).await, (Ok(()), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_not_sent_when_the_lead_ends_is_never_sent() {
        let lead = Lead::default();
        lead.renewed(tokio::time::Instant::now());
        let (refused, reached) = outcome(&lead, Method::PATCH, Duration::from_secs(11)).await;
        assert!(refused.unwrap_err().contains("does not lead"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(reached, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_ends() {
        let lead = Lead::default();
        let (late, _) = outcome(&lead, Method::GET, 2 * CALL).await;
        assert_eq!(late.unwrap_err(), "no answer within 20 s");
    }
}
