//! One attempt: one pod is asked.

use super::downstream::REQUEST_ID;
use super::{End, Record};
use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::TcpKeepalive;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use std::net::SocketAddr;
use std::time::Duration;

/// Time in which a pod must take a connection: it is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Tells a machine that is gone from a pod that computes: no answer to 3 probes, 5 s apart, after 10 s of silence.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(10),
    interval: Duration::from_secs(5),
    count: 3,
    user_timeout: Duration::from_secs(25),
};
/// Time for which an unused connection is kept; servers keep theirs longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// When to come again after a 429 that does not say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Headers about one connection (RFC 9110, section 7.6.1), and those that the gateway sets itself.
const NOT_FORWARDED: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::CONTENT_LENGTH,
];

/// What every attempt sends.
pub(super) struct Request {
    head: RequestHeader,
    body: Bytes,
}

/// How an attempt ended.
pub(super) enum Outcome {
    /// The client was answered, or is gone.
    Done(End),
    /// The pod did not take the request.
    PassedOn {
        /// Label of the metric.
        reason: &'static str,
        /// What a pod with a full queue says.
        retry_after: Option<Duration>,
    },
    /// A pooled connection was closed by the pod before it saw the request.
    Stale,
}

pub(super) struct Attempt<'a> {
    pub(super) connector: &'a Connector,
    pub(super) pod: SocketAddr,
    pub(super) request: &'a Request,
}

impl Request {
    pub(super) fn new(session: &ServerSession, body: Bytes, request_id: &str) -> Self {
        let mut head = session.req_header().clone();
        for name in named_by_connection(&head) {
            head.remove_header(name.as_str());
        }
        for name in NOT_FORWARDED {
            head.remove_header(&name);
        }
        // Each value is made of characters that a header takes.
        let set = [
            (header::CONTENT_LENGTH, body.len().to_string()),
            (HeaderName::from_static(REQUEST_ID), request_id.to_owned()),
            (FORWARDED_FOR, forwarded_for(session)),
        ];
        for (name, value) in set {
            if let Err(error) = head.insert_header(name, value) {
                tracing::error!(%error, "a header could not be set");
            }
        }
        Self { head, body }
    }
}

/// Further headers about this connection alone (RFC 9110, section 7.6.1).
fn named_by_connection(head: &RequestHeader) -> Vec<String> {
    let values = head.headers.get_all(header::CONNECTION).iter();
    let names = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    names
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The addresses that proxies before this one saw, and the client's.
fn forwarded_for(session: &ServerSession) -> String {
    let before = session.req_header().headers.get_all(&FORWARDED_FOR).iter();
    let before = before
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned);
    let client = session.client_addr().and_then(|address| address.as_inet());
    let client = client.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_string());
    before.chain([client]).collect::<Vec<_>>().join(", ")
}

fn passed_on(reason: &'static str) -> Outcome {
    Outcome::PassedOn {
        reason,
        retry_after: None,
    }
}

impl Attempt<'_> {
    pub(super) async fn run(&self, client: &mut ServerSession, record: &mut Record) -> Outcome {
        let mut peer = HttpPeer::new(self.pod, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.tcp_keepalive = Some(KEEPALIVE);
        let (mut upstream, reused) = match self.connector.get_http_session(&peer).await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%error, pod = %self.pod, "no connection");
                return passed_on("connect");
            }
        };
        let answered = tokio::select! {
            outcome = self.ask(&mut upstream) => outcome,
            // The client sends nothing more: whatever happens there is its end. The pod learns of it by the reset.
            _ = client.read_body_or_idle(true) => {
                record.status = 499;
                return Outcome::Done(End::Broken);
            }
        };
        if let Err(error) = answered {
            tracing::debug!(%error, pod = %self.pod, reused, "no answer");
            return if reused {
                Outcome::Stale
            } else {
                passed_on("reset")
            };
        }
        let Some(head) = upstream.response_header().cloned() else {
            return passed_on("reset");
        };
        if let Some(outcome) = declined(&head) {
            return outcome;
        }
        record.status = head.status.as_u16();
        match relay(&mut upstream, head, client).await {
            Ok(()) => {
                self.connector
                    .release_http_session(upstream, &peer, Some(IDLE_TIMEOUT))
                    .await;
                Outcome::Done(End::Answered)
            }
            Err(error) => {
                tracing::warn!(%error, pod = %self.pod, request_id = record.request_id, "the answer broke off");
                Outcome::Done(End::Broken)
            }
        }
    }

    async fn ask(&self, upstream: &mut HttpSession) -> pingora::Result<()> {
        upstream
            .write_request_header(Box::new(self.request.head.clone()))
            .await?;
        upstream
            .write_request_body(self.request.body.clone(), true)
            .await?;
        upstream.finish_request_body().await?;
        upstream.read_response_header().await
    }
}

/// Answers that another pod may better.
fn declined(head: &ResponseHeader) -> Option<Outcome> {
    let reason = match head.status {
        StatusCode::BAD_GATEWAY => "502",
        StatusCode::SERVICE_UNAVAILABLE => "503",
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds = head
                .headers
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = Some(seconds.map_or(DEFAULT_RETRY_AFTER, Duration::from_secs));
            return Some(Outcome::PassedOn {
                reason: "429",
                retry_after,
            });
        }
        _ => return None,
    };
    Some(passed_on(reason))
}

/// Sends the answer on as it comes.
async fn relay(
    upstream: &mut HttpSession,
    mut head: ResponseHeader,
    client: &mut ServerSession,
) -> pingora::Result<()> {
    head.remove_header(&header::CONNECTION);
    head.remove_header("keep-alive");
    client.write_response_header(Box::new(head)).await?;
    while let Some(chunk) = upstream.read_response_body().await? {
        client.write_response_body(chunk, false).await?;
    }
    client.write_response_body(Bytes::new(), true).await
}
