//! A request as it is sent to pods: as often as needed, and its body only when the pod wants it.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use zimage_crds::contract::HEALTHZ_PATH;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Headers about one connection (RFC 9110, section 7.6.1), those that the gateway sets itself, and those that are between
/// the client and the gateway alone.
const NOT_FORWARDED: [HeaderName; 19] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
    // What a browser says of the page it shows was checked here; a pod knows no list of origins.
    header::ORIGIN,
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-dest"),
    // Nobody here wrote these, so nobody behind may believe them.
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
];
/// Headers of an answer about one connection.
const NOT_RETURNED: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What every attempt sends.
pub(crate) struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// One sending of it.
pub(crate) struct Sending {
    pub(crate) request: Request<Payload>,
    pub(crate) body: BodyGate,
}

/// Whether a body was sent, and the means to send one that waits. When it is dropped, a body that still waits is never
/// sent, and its connection ends: it is held until the answer is over.
pub(crate) struct BodyGate {
    sent: Arc<AtomicBool>,
    open: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

fn open_gate(gate: &Mutex<Option<oneshot::Sender<()>>>) {
    let open = gate.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(open) = open {
        // Nobody waits for it any more when its connection has ended.
        let _ended = open.send(());
    }
}

impl Drop for BodyGate {
    fn drop(&mut self) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl BodyGate {
    /// Lets a body that waits be sent.
    pub(crate) fn open(&self) {
        open_gate(&self.open);
    }

    /// Whether the body waits.
    pub(crate) fn is_shut(&self) -> bool {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Whether the pod may have the body, or a part of it.
    pub(crate) fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }
}

impl Outgoing {
    /// A client's request, with the gateway's own headers.
    pub(crate) fn new(
        head: &Parts,
        body: Bytes,
        request_id: &str,
        client: Option<SocketAddr>,
    ) -> Self {
        let mut headers = head.headers.clone();
        for name in named_by_connection(&headers) {
            headers.remove(name);
        }
        for name in &NOT_FORWARDED {
            headers.remove(name);
        }
        let forwarded = forwarded_for(&headers, client);
        for (name, value) in [(REQUEST_ID, request_id), (FORWARDED_FOR, &forwarded)] {
            match HeaderValue::from_str(value) {
                Ok(value) => drop(headers.insert(name, value)),
                Err(_) => drop(headers.remove(name)),
            }
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        Self {
            method: head.method.clone(),
            uri: path.parse().unwrap_or_default(),
            headers,
            body,
        }
    }

    /// Bytes of the body.
    pub(crate) fn length(&self) -> usize {
        self.body.len()
    }

    /// The request once more. A body that waits is sent when the pod asks for it (`100 Continue`).
    pub(crate) fn sending(&self, pod: SocketAddr, waits: bool) -> Sending {
        let sent = Arc::new(AtomicBool::new(false));
        let (open, gate) = oneshot::channel();
        let body = BodyGate {
            sent: Arc::clone(&sent),
            open: Arc::new(Mutex::new(waits.then_some(open))),
        };
        let payload = Payload {
            bytes: Some(self.body.clone()).filter(|bytes| !bytes.is_empty()),
            gate: waits.then_some(gate),
            sent,
        };
        let mut request = Request::new(payload);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let host = || HeaderValue::from_str(&pod.to_string()).ok();
        if !self.headers.contains_key(header::HOST)
            && let Some(host) = host()
        {
            request.headers_mut().insert(header::HOST, host);
        }
        if waits {
            let expect = HeaderValue::from_static("100-continue");
            request.headers_mut().insert(header::EXPECT, expect);
            let gate = Arc::clone(&body.open);
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    open_gate(&gate);
                }
            });
        }
        Sending { request, body }
    }
}

/// The request that asks a pod for a sign of life.
pub(crate) fn probe(pod: SocketAddr) -> Request<Payload> {
    let mut request = Request::new(Payload {
        bytes: None,
        gate: None,
        sent: Arc::default(),
    });
    *request.uri_mut() = Uri::from_static(HEALTHZ_PATH);
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(&pod.to_string()) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    request
}

/// Takes off what an answer says about the connection to the pod alone.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // A length beside chunks is not to be believed (RFC 9112, section 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in &NOT_RETURNED {
        headers.remove(name);
    }
}

/// Further headers about this connection alone (RFC 9110, section 7.6.1).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    let names = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    names.filter_map(|name| name.trim().parse().ok()).collect()
}

/// The addresses that proxies before this one saw, and the client's.
fn forwarded_for(headers: &HeaderMap, client: Option<SocketAddr>) -> String {
    let before = headers.get_all(&FORWARDED_FOR).iter();
    let before = before
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned);
    let client = client.map_or_else(|| "unknown".to_owned(), |client| client.ip().to_string());
    before.chain([client]).collect::<Vec<_>>().join(", ")
}

/// The pod answered without the body.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the pod did not want the body")]
pub(crate) struct NeverSent;

/// A request's body.
pub(crate) struct Payload {
    bytes: Option<Bytes>,
    gate: Option<oneshot::Receiver<()>>,
    sent: Arc<AtomicBool>,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = NeverSent;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NeverSent>>> {
        if let Some(gate) = &mut self.gate {
            if ready!(Pin::new(gate).poll(context)).is_err() {
                return Poll::Ready(Some(Err(NeverSent)));
            }
            self.gate = None;
        }
        let bytes = self.bytes.take();
        if bytes.is_some() {
            self.sent.store(true, Ordering::Release);
        }
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.bytes.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
    }
}
