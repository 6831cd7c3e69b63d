//! What the pods of one tenant can do to another's figures. Real sockets.

use super::*;
use crate::decide::traffic::Load;
use crate::metrics::Metrics;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// A pod that does `answer` with each connection.
async fn pod<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn idle(mut stream: TcpStream, answers: Arc<AtomicUsize>) {
    let mut request = [0; 1024];
    if stream.read(&mut request).await.is_ok() {
        let body = "zimage_gpu_utilization_ratio{gpu=\"0\"} 0.1\nzimage_requests_waiting 0\n";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        answers.fetch_add(1, Ordering::Relaxed);
        // A reader that is gone is what is tested.
        let _gone = stream.write_all((head + body).as_bytes()).await;
    }
}

/// Takes a connection and never says a word.
async fn silent(stream: TcpStream) {
    tokio::time::sleep(Duration::from_secs(600)).await;
    drop(stream);
}

/// Sends without end what is no text.
async fn garbage(mut stream: TcpStream) {
    let chunk = [0xff; 16 << 10];
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    if stream.write_all(head).await.is_ok() {
        while stream.write_all(&chunk).await.is_ok() {}
    }
}

fn spec() -> zimage_crds::ZImageDeploymentSpec {
    let tier = serde_json::json!({"model": {"variant": "Turbo", "source": {"persistentVolumeClaim": {"claimName": "m"}}}});
    serde_json::from_value(serde_json::json!({"primary": tier, "fallback": tier})).unwrap()
}

fn deployment(namespace: &str) -> DeploymentRef {
    DeploymentRef::new("fox").within(namespace)
}

/// Follows `count` ready pods, all at one address, as the primary tier of a tenant.
fn follow(observer: &Observer, tenant: &str, address: SocketAddr, count: usize) -> Snapshot {
    let target = |index| PodTarget {
        name: format!("pod-{index}"),
        address,
    };
    let pods = ReadyPods {
        servers: PerTier {
            primary: (0..count).map(target).collect(),
            fallback: Vec::new(),
        },
        gateway: Vec::new(),
    };
    let mut owner = ZImageDeployment::new("fox", spec());
    owner.metadata.namespace = Some(tenant.to_owned());
    observer.decide(&Arc::new(owner), pods, None, Moment::now())
}

/// Watches until `is_enough` says so.
async fn watch_until(observer: &Observer, mut is_enough: impl FnMut() -> bool) {
    let (changed, _decisions) = mpsc::channel(1024);
    let enough = async {
        while !is_enough() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let both = async {
        tokio::select! {
            () = observer.watch(|_| true, changed) => {}
            () = enough => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(120), both)
        .await
        .expect("it comes to pass");
}

#[tokio::test]
async fn five_hundred_silent_pods_of_one_tenant_do_not_make_another_tenants_figures_old() {
    let observer = Observer::new(ScrapeMetrics::default());
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let honest = pod(move |stream| idle(stream, Arc::clone(&counted))).await;
    follow(&observer, "hostile", pod(silent).await, 500);
    follow(&observer, "honest", honest, 1);

    let mut oldest = Duration::ZERO;
    let age = || {
        let tracked = observer.lock();
        let entry = &tracked[&deployment("honest")];
        entry.servers.primary.observe(Instant::now()).figures_age
    };
    // More than two rounds of the silent ones.
    watch_until(&observer, || {
        oldest = oldest.max(age());
        answers.load(Ordering::Relaxed) >= 10
    })
    .await;
    assert!(oldest < sample::MAX_AGE, "{oldest:?}");
    let hostile = follow(&observer, "hostile", honest, 0);
    assert_eq!(hostile.observation.primary.load, Load::Stale);
}

#[tokio::test]
async fn garbage_without_end_is_read_to_the_bound_and_counts_as_no_answer() {
    let metrics = ScrapeMetrics::default();
    let observer = Observer::new(metrics.clone());
    follow(&observer, "hostile", pod(garbage).await, 64);
    let failed = || metrics.failures("too_large") + metrics.failures("late");
    watch_until(&observer, || failed() >= 64).await;
    let most = (failed() + CONCURRENT_PODS as u64) * (scrape::MAX_BYTES as u64 + (16 << 10));
    let read = metrics.bytes();
    assert!(read <= most, "{read} of {most} bytes");
    assert!(metrics.failures("too_large") > 0);
}

/// The samples of one gauge of the operator, without its labels' namespace and name.
fn samples(metrics: &Metrics, gauge: &str) -> Vec<String> {
    let text = metrics.text().unwrap();
    let prefix = format!("zimage_operator_{gauge}{{namespace=\"art\",name=\"fox\",");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn figures_are_shown_as_they_are_now_and_go_with_their_deployment() {
    let observer = Arc::new(Observer::new(ScrapeMetrics::default()));
    let metrics = Metrics::new().with(DecisionGauges(vec![Arc::clone(&observer)]));
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let honest = pod(move |stream| idle(stream, Arc::clone(&counted))).await;
    follow(&observer, "art", honest, 1);
    let utilization = || samples(&metrics, "tier_gpu_utilization_ratio");
    assert!(utilization().is_empty());
    // Nothing is reconciled meanwhile.
    watch_until(&observer, || !utilization().is_empty()).await;
    assert_eq!(utilization(), [r#"tier="primary"} 0.1"#]);
    observer.forget_the_gone(|_| false);
    assert!(!metrics.text().unwrap().contains("\"fox\""));
}

#[test]
fn figures_are_those_of_the_last_answer_and_grow_old_without_one() {
    let observer = Arc::new(Observer::new(ScrapeMetrics::default()));
    let metrics = Metrics::new().with(DecisionGauges(vec![Arc::clone(&observer)]));
    let address = SocketAddr::from(([10, 0, 0, 1], 9090));
    follow(&observer, "art", address, 1);
    let pod = PodTarget {
        name: "pod-0".to_owned(),
        address,
    };
    let answers = |waiting, at| {
        let figures = exposition::Figures {
            utilization: Some(0.5),
            waiting,
            ..exposition::Figures::default()
        };
        let mut tracked = observer.lock();
        let entry = tracked.get_mut(&deployment("art")).unwrap();
        entry.servers.primary.record(&pod, figures, at);
    };
    let now = Instant::now();
    for waiting in [3, 7] {
        answers(waiting, now);
        let shown = format!(r#"tier="primary"}} {waiting}"#);
        assert_eq!(samples(&metrics, "tier_requests_waiting"), [shown]);
    }
    // Neither a reconciliation nor a round of reading comes in between.
    answers(7, now.checked_sub(Duration::from_secs(60)).unwrap());
    assert!(samples(&metrics, "tier_requests_waiting").is_empty());
    let ages = samples(&metrics, "tier_figures_age_seconds");
    let age = ages[0].rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
    assert!(age >= 60.0, "{age}");
    assert_eq!(
        samples(&metrics, "tier_weight"),
        [r#"tier="primary"} 100"#, r#"tier="fallback"} 0"#]
    );
}
