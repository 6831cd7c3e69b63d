//! What the gateway knows while the API server comes and goes.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use futures::{FutureExt, StreamExt, stream};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zimage_crds::Tier;
use zimage_gateway::metrics::Metrics;
use zimage_gateway::topology::Topology;
use zimage_gateway::watch::{Known, follow};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a watch lasts; then the gateway asks again.
const WATCH: Duration = Duration::from_millis(50);

/// An API server with one deployment, whose primary tier has one pod.
#[derive(Default)]
struct Cluster {
    away: AtomicBool,
    /// It answers 401 to everything.
    refusing: AtomicBool,
    asked_in_vain: AtomicUsize,
    /// What the next watch of a kind tells: the kind and the event.
    news: Mutex<Vec<(&'static str, Value)>>,
}

fn deployment() -> Value {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    let tier = json!({"model": {"variant": "Turbo", "source": source}});
    json!({
        "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
        "metadata": {"name": "fox", "namespace": "art", "resourceVersion": "1"},
        "spec": {"primary": tier},
    })
}

fn slice(addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "fox-primary-a", "namespace": "art", "resourceVersion": "2",
            "labels": {"kubernetes.io/service-name": "fox-primary"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

impl Cluster {
    fn connect(self: &Arc<Self>) -> zimage_gateway::watch::Cluster {
        let cluster = Arc::clone(self);
        let answer = move |request: Request<kube::client::Body>| {
            let answer = cluster.answer(request.uri().path(), request.uri().query());
            async { answer }
        };
        zimage_gateway::watch::Cluster::over(tower::service_fn(answer), "art")
    }

    fn answer(&self, path: &str, query: Option<&str>) -> io::Result<Response<Body>> {
        if self.away.load(Ordering::SeqCst) {
            self.asked_in_vain.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        if self.refusing.load(Ordering::SeqCst) {
            let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 401, "reason": "Unauthorized",
                "message": "Unauthorized"});
            let answer = Response::builder().status(401);
            return Ok(answer.body(Body::from(status.to_string())).unwrap());
        }
        let of_deployments = path.ends_with("/zimagedeployments");
        if query.is_some_and(|query| query.contains("watch=true")) {
            return Ok(Response::new(self.watch(of_deployments)));
        }
        let item = if of_deployments {
            deployment()
        } else {
            slice(&["10.0.0.1"])
        };
        let list = json!({"apiVersion": item["apiVersion"], "kind": "List", "metadata": {"resourceVersion": "3"}, "items": [item]});
        Ok(Response::new(Body::from(list.to_string())))
    }

    fn watch(&self, of_deployments: bool) -> Body {
        let kind = if of_deployments {
            "ZImageDeployment"
        } else {
            "EndpointSlice"
        };
        let mut news = self.news.lock().unwrap();
        let told = news.extract_if(.., |(about, _)| *about == kind);
        let lines: Vec<_> = told
            .map(|(_, event)| Ok::<_, io::Error>(Bytes::from(format!("{event}\n"))))
            .collect();
        let end = tokio::time::sleep(WATCH).map(|()| Ok(Bytes::new()));
        Body::from_stream(stream::iter(lines).chain(stream::once(end)))
    }

    fn tell(&self, kind: &'static str, event: &str, object: Value) {
        let event = json!({"type": event, "object": object});
        self.news.lock().unwrap().push((kind, event));
    }

    /// Returns when the gateway has noticed that nobody answers.
    async fn is_missed(&self) {
        let before = self.asked_in_vain.load(Ordering::SeqCst);
        let missed = async {
            while self.asked_in_vain.load(Ordering::SeqCst) < before + 2 {
                tokio::time::sleep(WATCH).await;
            }
        };
        tokio::time::timeout(PATIENCE, missed).await.unwrap();
    }
}

fn start(cluster: &Arc<Cluster>) -> Known {
    start_with(cluster, Metrics::default())
}

fn start_with(cluster: &Arc<Cluster>, metrics: Metrics) -> Known {
    let (learned, known) = tokio::sync::watch::channel(None);
    let cluster = cluster.connect();
    tokio::spawn(async move { follow(cluster, "art", "fox", &metrics, learned).await });
    known
}

async fn until(known: &mut Known, is_there: impl Fn(&Topology) -> bool) {
    let there = known.wait_for(|topology| topology.as_deref().is_some_and(&is_there));
    let seen = tokio::time::timeout(PATIENCE, there).await;
    seen.expect("it is learned in time")
        .expect("the gateway follows for ever");
}

fn hosts(topology: &Topology) -> Vec<String> {
    let pods = topology.pods(Tier::Primary);
    pods.map(|pod| pod.to_string()).collect()
}

#[tokio::test]
async fn what_was_known_stays_while_the_api_server_is_away_and_changes_when_it_is_back() {
    let cluster = Arc::new(Cluster::default());
    let mut known = start(&cluster);
    until(&mut known, |topology| hosts(topology) == ["10.0.0.1:8000"]).await;

    cluster.away.store(true, Ordering::SeqCst);
    cluster.is_missed().await;
    let stayed = known.borrow().clone();
    assert_eq!(hosts(&stayed.unwrap()), ["10.0.0.1:8000"]);

    cluster.tell("EndpointSlice", "MODIFIED", slice(&["10.0.0.7"]));
    cluster.away.store(false, Ordering::SeqCst);
    until(&mut known, |topology| hosts(topology) == ["10.0.0.7:8000"]).await;
}

#[tokio::test]
async fn without_an_api_server_nothing_is_known_until_it_comes() {
    let cluster = Arc::new(Cluster::default());
    cluster.away.store(true, Ordering::SeqCst);
    let mut known = start(&cluster);
    cluster.is_missed().await;
    assert!(known.borrow().is_none());
    cluster.away.store(false, Ordering::SeqCst);
    until(&mut known, |topology| hosts(topology) == ["10.0.0.1:8000"]).await;
}

#[tokio::test]
async fn a_deployment_that_is_gone_leaves_what_was_known() {
    let cluster = Arc::new(Cluster::default());
    let mut known = start(&cluster);
    until(&mut known, |topology| hosts(topology) == ["10.0.0.1:8000"]).await;
    cluster.tell("ZImageDeployment", "DELETED", deployment());
    while !cluster.news.lock().unwrap().is_empty() {
        tokio::time::sleep(WATCH).await;
    }
    // Another change shows that the deletion was seen.
    cluster.tell("EndpointSlice", "MODIFIED", slice(&[]));
    tokio::time::sleep(WATCH * 10).await;
    let stayed = known.borrow().clone();
    assert_eq!(hosts(&stayed.unwrap()), ["10.0.0.1:8000"]);
}

/// A figure as `/metrics` shows it.
fn figure(metrics: &Metrics, labels: &str) -> Option<f64> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(labels));
    line.map(|value| value.trim().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_refuses_the_gateway_is_told_and_what_was_known_stays() {
    const REFUSED: &str = "zimage_gateway_knowledge_refused{source=\"endpoints\"}";
    const AGE: &str = "zimage_gateway_knowledge_age_seconds{source=\"endpoints\"}";
    let cluster = Arc::new(Cluster::default());
    let metrics = Metrics::default();
    let mut known = start_with(&cluster, metrics.clone());
    until(&mut known, |topology| hosts(topology) == ["10.0.0.1:8000"]).await;

    cluster.refusing.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(figure(&metrics, REFUSED), Some(0.0));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(figure(&metrics, REFUSED), Some(1.0));
    assert!(figure(&metrics, AGE).unwrap() > 140.0);
    let stayed = known.borrow().clone();
    assert_eq!(hosts(&stayed.unwrap()), ["10.0.0.1:8000"]);

    cluster.refusing.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(figure(&metrics, REFUSED), Some(0.0));
    assert!(figure(&metrics, AGE).unwrap() < 30.0);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_no_refusal_and_the_age_tells_how_long() {
    let cluster = Arc::new(Cluster::default());
    let metrics = Metrics::default();
    let mut known = start_with(&cluster, metrics.clone());
    until(&mut known, |topology| hosts(topology) == ["10.0.0.1:8000"]).await;
    cluster.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    for source in ["deployment", "endpoints"] {
        let refused = format!("zimage_gateway_knowledge_refused{{source=\"{source}\"}}");
        assert_eq!(figure(&metrics, &refused), Some(0.0));
        let age = format!("zimage_gateway_knowledge_age_seconds{{source=\"{source}\"}}");
        assert!(figure(&metrics, &age).unwrap() > 590.0);
    }
}

#[tokio::test]
async fn a_deployment_from_the_future_is_followed() {
    let cluster = Arc::new(Cluster::default());
    let mut known = start(&cluster);
    until(&mut known, |topology| topology.tiers.fallback.is_none()).await;
    let mut later = deployment();
    later["spec"] = json!({
        "primary": {"model": {"variant": "Edit", "source": {"oci": "models/edit"}, "precision": 8}, "gpu": "B300"},
        "fallback": {"model": "z-image"}, "traffic": {"mode": "Mesh", "shift": []}, "paused": "Never"});
    later["status"] = json!({
        "primary": {"model": "z-image-edit", "readyReplicas": "1"}, "conditions": "none",
        "traffic": {"weights": {"primary": 25, "fallback": 75}, "state": "Rolling", "since": 7}});
    cluster.tell("ZImageDeployment", "MODIFIED", later);
    until(&mut known, |topology| topology.weights.fallback == 75).await;
    let names = known.borrow().clone().unwrap();
    assert_eq!(names.models(), ["fox", "z-image-edit"]);
}

#[tokio::test]
async fn weights_that_cannot_be_read_are_counted_and_the_endpoints_are_followed_on() {
    const UNREADABLE: &str =
        "zimage_gateway_unreadable_fields_total{field=\"status.traffic.weights\"}";
    let cluster = Arc::new(Cluster::default());
    let metrics = Metrics::default();
    let mut known = start_with(&cluster, metrics.clone());
    until(&mut known, |topology| hosts(topology) == ["10.0.0.1:8000"]).await;
    let mut odd = deployment();
    odd["spec"]["fallback"] = json!({});
    odd["status"] = json!({"traffic": {"weights": "0/100"}});
    cluster.tell("ZImageDeployment", "MODIFIED", odd);
    cluster.tell("EndpointSlice", "MODIFIED", slice(&["10.0.0.7"]));
    until(&mut known, |topology| {
        hosts(topology) == ["10.0.0.7:8000"] && topology.tiers.fallback.is_some()
    })
    .await;
    assert!(figure(&metrics, UNREADABLE).unwrap() >= 1.0);
    assert_eq!(known.borrow().clone().unwrap().weights.primary, 100);
}
