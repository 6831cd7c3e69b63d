//! Pods that are gone, partitioned or frozen.

use crate::pods::{listen, nobody};
use crate::raw::{Does, Raw, addresses, posts};
use crate::stage::{Gateway, gateway, topology};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// This machine may be busy: limits are far above what is measured, and far below what the old way took.
const PATIENCE: Duration = Duration::from_secs(30);

/// An address that drops every SYN: its queue of connections is full for ever.
struct Partitioned {
    address: SocketAddr,
    _listener: Socket,
    _queue: Vec<Socket>,
}

impl Partitioned {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let fill = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _under_way = socket.connect(&address.into());
            socket
        };
        let queue: Vec<_> = (0..8).map(|_| fill()).collect();
        std::thread::sleep(Duration::from_millis(50));
        let refused = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert!(refused.is_err(), "the queue is full");
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ejected(gateway: &Gateway, reason: &str) -> f64 {
    gateway.figure(&format!(
        "zimage_gateway_ejections_total{{reason=\"{reason}\"}}"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_of_five_pods_that_drop_packets_cost_a_moment_and_then_nothing() {
    let dead: Vec<_> = (0..4).map(|_| Partitioned::new()).collect();
    let well = Raw::start(Does::Answer).await;
    let mut pods: Vec<_> = dead.iter().map(|pod| pod.address).collect();
    pods.push(well.address);
    let gateway = gateway(&pods, &[]).await;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(4) {
        let sent = Instant::now();
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
        slowest = slowest.max(sent.elapsed());
    }
    // One after the other they cost 4 s.
    assert!(slowest < Duration::from_millis(2500), "{slowest:?}");
    until("the dead pods are out", || {
        ejected(&gateway, "connect") >= 4.0
    })
    .await;
    assert_eq!(
        gateway.figure("zimage_gateway_pods_ejected{tier=\"primary\"}"),
        2.0
    );
    let before = gateway.figures_of("zimage_gateway_passed_on_total");
    for _ in 0..200 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    assert_eq!(gateway.figures_of("zimage_gateway_passed_on_total"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_tier_that_drops_packets_costs_a_moment_and_then_the_other_tier_answers_at_once() {
    let dead: Vec<_> = (0..3).map(|_| Partitioned::new()).collect();
    let well = Raw::start(Does::Answer).await;
    let pods: Vec<_> = dead.iter().map(|pod| pod.address).collect();
    let gateway = gateway(&pods, &[well.address]).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let sent = Instant::now();
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
        slowest = slowest.max(sent.elapsed());
    }
    assert!(slowest < Duration::from_millis(2500), "{slowest:?}");
    until("the dead pods are out", || {
        ejected(&gateway, "connect") >= 3.0
    })
    .await;
    let before = gateway.figures_of("zimage_gateway_passed_on_total");
    for _ in 0..100 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    assert_eq!(gateway.figures_of("zimage_gateway_passed_on_total"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_pods_request_is_answered_elsewhere_and_the_next_ones_do_not_go_there() {
    let frozen = Raw::start(Does::Freeze).await;
    let well = Raw::start(Does::Answer).await;
    let gateway = gateway(&[frozen.address], &[well.address]).await;
    let sent = Instant::now();
    let answers = futures::future::join_all((0..8).map(|_| gateway.post("{}"))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert!(
        sent.elapsed() < Duration::from_secs(15),
        "{:?}",
        sent.elapsed()
    );
    assert_eq!(ejected(&gateway, "silent"), 1.0);
    let before = gateway.figures_of("zimage_gateway_passed_on_total");
    for _ in 0..20 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    assert_eq!(gateway.figures_of("zimage_gateway_passed_on_total"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_computes_for_long_is_not_silent() {
    let compute = || async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        "{\"pod\": \"slow\"}"
    };
    let router = Router::new()
        .route("/v1/images/generations", post(compute))
        .route("/healthz", get(|| async { "ok" }));
    let slow = listen(router).await;
    let other = Raw::start(Does::Answer).await;
    let gateway = gateway(&[slow], &[other.address]).await;
    assert_eq!(gateway.post("{}").await.body["pod"], "slow");
    assert_eq!(other.posts(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_pod_keeps_its_request_while_there_is_no_other() {
    let frozen = Raw::start(Does::Freeze).await;
    let gateway = gateway(&[frozen.address], &[]).await;
    let answer = tokio::time::timeout(Duration::from_secs(8), gateway.post("{}")).await;
    assert!(answer.is_err(), "it is still waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_comes_back_by_itself() {
    let gone = nobody().await;
    let well = Raw::start(Does::Answer).await;
    let gateway = gateway(&[gone], &[well.address]).await;
    for _ in 0..3 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
    }
    until("the pod is out", || ejected(&gateway, "connect") >= 1.0).await;
    let back = Raw::on(TcpListener::bind(gone).await.unwrap(), Does::Answer);
    let began = Instant::now();
    while back.posts() == 0 {
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pod_at_the_same_address_has_no_history() {
    let pod = Raw::start(Does::Die).await;
    let well = Raw::start(Does::Answer).await;
    let gateway = gateway(&[pod.address], &[well.address]).await;
    for prompt in ["a", "b", "c"] {
        assert_eq!(gateway.post(prompt).await.status, StatusCode::OK);
    }
    until("the pod is out", || ejected(&gateway, "reset") >= 1.0).await;
    pod.now(Does::Answer);
    let mut replaced = topology(&[pod.address], &[well.address]);
    let primary = replaced.tiers.primary.as_mut().unwrap();
    primary.pods.insert(pod.address, "another".to_owned());
    gateway.learned.send_replace(Some(Arc::new(replaced)));
    let before = pod.posts();
    assert_eq!(gateway.post("{}").await.body["port"], pod.address.port());
    assert_eq!(pod.posts(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_that_the_pod_closed_costs_no_attempt() {
    let closing = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    let pods = [Raw::start(Does::Say(closing)).await];
    let gateway = gateway(&addresses(&pods), &[]).await;
    for count in 1..=5 {
        assert_eq!(gateway.post("{}").await.status, StatusCode::OK);
        assert_eq!(posts(&pods), count);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ejected(&gateway, "reset"), 0.0);
}
