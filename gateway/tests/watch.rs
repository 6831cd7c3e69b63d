//! What the gateway knows while the API server comes and goes.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use futures::{FutureExt, StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
    fn client(self: &Arc<Self>) -> Client {
        let cluster = Arc::clone(self);
        let answer = move |request: Request<kube::client::Body>| {
            let answer = cluster.answer(request.uri().path(), request.uri().query());
            async { answer }
        };
        Client::new(tower::service_fn(answer), "art")
    }

    fn answer(&self, path: &str, query: Option<&str>) -> io::Result<Response<Body>> {
        if self.away.load(Ordering::SeqCst) {
            self.asked_in_vain.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
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
    let (learned, known) = tokio::sync::watch::channel(None);
    let client = cluster.client();
    tokio::spawn(async move { follow(client, "art", "fox", &Metrics::default(), learned).await });
    known
}

async fn until(known: &mut Known, is_there: impl Fn(&Topology) -> bool) {
    let there = known.wait_for(|topology| topology.as_deref().is_some_and(&is_there));
    let seen = tokio::time::timeout(PATIENCE, there).await;
    seen.expect("it is learned in time")
        .expect("the gateway follows for ever");
}

fn hosts(topology: &Topology) -> Vec<String> {
    let pods = topology.primary_pods.iter();
    pods.map(ToString::to_string).collect()
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
