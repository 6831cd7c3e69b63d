//! A proxy and what clients see of it.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use zimage_crds::{PerTier, Weights};
use zimage_edge::{Policy, Stop, Times};
use zimage_gateway::forward::Forward;
use zimage_gateway::metrics::Metrics;
use zimage_gateway::proxy::{Bounds, Proxy};
use zimage_gateway::topology::{TierTopology, Topology};

pub(crate) const BOUNDS: Bounds = Bounds {
    request_timeout: Duration::from_secs(20),
    max_body_bytes: 200 << 10,
    max_buffered_bytes: 4 << 20,
    client_parts: 4,
};

/// Connections of clients.
const CONNECTIONS: usize = 500;

/// A proxy on a port of its own. It lives as long as the test's process.
pub(crate) struct Gateway {
    address: SocketAddr,
    pub(crate) learned: watch::Sender<Option<Arc<Topology>>>,
    pub(crate) http: reqwest::Client,
    pub(crate) stop: Stop,
    metrics: Metrics,
}

impl Gateway {
    pub(crate) async fn start(topology: Topology, bounds: Bounds) -> Self {
        let (learned, known) = watch::channel(Some(Arc::new(topology)));
        let metrics = Metrics::default();
        let forward = Arc::new(Forward::new(known.clone(), metrics.clone()));
        let stop = Stop::default();
        let proxy = Arc::new(Proxy::new(
            Arc::clone(&forward),
            known,
            metrics.clone(),
            bounds,
            Policy::default(),
            stop.leaving.clone(),
        ));
        tokio::spawn(async move { forward.tend().await });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = zimage_edge::Bounds {
            connections: CONNECTIONS,
            times: Times::default(),
        };
        tokio::spawn(zimage_edge::serve(
            listener,
            proxy,
            bounds,
            metrics.edge.clone(),
            stop.clone(),
        ));
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let http = reqwest::Client::builder().default_headers(HeaderMap::from_iter(json));
        Self {
            address,
            learned,
            http: http.build().unwrap(),
            stop,
            metrics,
        }
    }

    /// What `/metrics` shows.
    pub(crate) fn figures(&self) -> String {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    /// The sum of what `/metrics` shows under a name, with or without its labels.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let figures = self.figures();
        let lines = figures.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// The lines of `/metrics` under a name.
    pub(crate) fn figures_of(&self, name: &str) -> Vec<String> {
        let figures = self.figures();
        let mut lines: Vec<_> = figures
            .lines()
            .filter(|line| line.starts_with(name))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Answer {
        let url = self.url("/v1/images/generations");
        Answer::of(self.http.post(url).body(body).send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(self.url(path)).send().await.unwrap()).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn code(&self) -> &Value {
        &self.body["error"]["code"]
    }
}

fn tier(model: &str, pods: &[SocketAddr]) -> TierTopology {
    TierTopology {
        model: Some(model.to_owned()),
        pods: pods.iter().map(|pod| (*pod, String::new())).collect(),
    }
}

pub(crate) fn topology(primary: &[SocketAddr], fallback: &[SocketAddr]) -> Topology {
    Topology {
        name: "fox".to_owned(),
        weights: Weights {
            primary: 90,
            fallback: 10,
        },
        tiers: PerTier {
            primary: Some(tier("z-image-turbo", primary)),
            fallback: Some(tier("z-image", fallback)),
        },
    }
}

pub(crate) async fn gateway(primary: &[SocketAddr], fallback: &[SocketAddr]) -> Gateway {
    Gateway::start(topology(primary, fallback), BOUNDS).await
}
