//! What the pods of one tenant can do to another's figures. Real sockets.

use super::*;
use crate::traffic::Load;
use std::net::SocketAddr;
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
    ObjectRef::new("fox").within(namespace)
}

/// Follows `count` ready pods, all at one address, as the primary tier of a tenant.
fn follow(observer: &Observer, tenant: &str, address: SocketAddr, count: usize) -> Decision {
    let target = |index| PodTarget {
        name: format!("pod-{index}"),
        address,
    };
    let situation = Situation {
        policy: Policy::from(&spec()),
        primary: (0..count).map(target).collect(),
        fallback: Vec::new(),
        gateway: Vec::new(),
        status: None,
    };
    observer.decide(&deployment(tenant), situation, Moment::now())
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
    let observer = Observer::new(Arc::default());
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let honest = pod(move |stream| idle(stream, Arc::clone(&counted))).await;
    follow(&observer, "hostile", pod(silent).await, 500);
    follow(&observer, "honest", honest, 1);

    let mut oldest = Duration::ZERO;
    let age = || {
        let watched = observer.lock();
        let entry = &watched[&deployment("honest")];
        entry.primary.observe(Instant::now()).figures_age
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
    let metrics = Arc::new(Metrics::new());
    let observer = Observer::new(Arc::clone(&metrics));
    follow(&observer, "hostile", pod(garbage).await, 64);
    let failed = || metrics.scrape_failures("too_large") + metrics.scrape_failures("late");
    watch_until(&observer, || failed() >= 64).await;
    let most = (failed() + CONCURRENT_PODS as u64) * (scrape::MAX_BYTES as u64 + (16 << 10));
    let read = metrics.scraped_bytes();
    assert!(read <= most, "{read} of {most} bytes");
    assert!(metrics.scrape_failures("too_large") > 0);
}

#[tokio::test]
async fn figures_are_shown_as_they_are_now_and_go_with_their_deployment() {
    let metrics = Arc::new(Metrics::new());
    let observer = Observer::new(Arc::clone(&metrics));
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let honest = pod(move |stream| idle(stream, Arc::clone(&counted))).await;
    follow(&observer, "art", honest, 1);
    let utilization = "zimage_operator_tier_gpu_utilization_ratio{namespace=\"art\",name=\"fox\",tier=\"primary\"} 0.1\n";
    assert!(!metrics.text().unwrap().contains(utilization));
    // Nothing is reconciled meanwhile.
    watch_until(&observer, || metrics.text().unwrap().contains(utilization)).await;
    observer.forget_the_gone(|_| false);
    assert!(!metrics.text().unwrap().contains("\"fox\""));
}
