//! Many clients at once.

use crate::stage::{BOUNDS, PATIENCE, Stage, post, stage, status};
use std::time::{Duration, Instant};
use zimage_edge::{Bounds, Resources};

/// So many connections as this process's files allow: both ends of each are in it.
fn at_most(wanted: usize) -> usize {
    let files = usize::try_from(Resources::read().files).unwrap_or(usize::MAX);
    wanted.min(files.saturating_sub(200) / 3)
}

fn few(connections: usize) -> Bounds {
    Bounds {
        connections,
        ..BOUNDS
    }
}

fn close(request: &str) -> String {
    request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
}

async fn honest(stage: &Stage, requests: usize) -> usize {
    let mut served = 0;
    for _ in 0..requests {
        let answer = stage.say(close(&post("/", "{}"))).await;
        served += usize::from(status(&answer) == "200");
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_slow_heads_keep_nobody_out() {
    let stage = stage(few(500)).await;
    let mut slow = Vec::new();
    for number in 0..at_most(10_000) {
        let mut client = stage.client().await;
        client.send("POST / HTTP/1.1\r\nX-A: ").await;
        slow.push(client);
        if number % 1_000 == 999 {
            assert_eq!(honest(&stage, 10).await, 10, "after {number}");
        }
    }
    assert_eq!(honest(&stage, 100).await, 100);
    assert!(stage.rejected("evicted") > 0, "{}", stage.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_announce_bodies_keep_nobody_out() {
    let stage = stage(few(500)).await;
    let mut silent = Vec::new();
    for number in 0..at_most(1_000) {
        let mut client = stage.client().await;
        client
            .send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4194304\r\n\r\n")
            .await;
        silent.push(client);
        if number % 100 == 99 {
            assert_eq!(honest(&stage, 10).await, 10, "after {number}");
        }
    }
    assert_eq!(honest(&stage, 100).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_connection_works_a_new_one_is_told_so_and_probes_are_answered() {
    let mut stage = stage(few(2)).await;
    let mut clients = [stage.client().await, stage.client().await];
    for client in &mut clients {
        client.send(post("/wait", "{}")).await;
        assert_eq!(stage.event().await, "begun");
    }
    let answer = stage.say(&post("/", "{}")).await;
    assert_eq!(status(&answer), "503", "{answer}");
    let probe = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&stage.say(probe).await), "200");
    assert!(answer.contains("retry-after: "), "{answer}");
    assert_eq!(stage.rejected("connections"), 1);
    stage.site.may_answer.add_permits(2);
    for client in &mut clients {
        client.until("\r\n\r\n2").await;
    }
    assert_eq!(honest(&stage, 3).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_no_answer_give_their_places() {
    let stage = stage(few(4)).await;
    let mut takers = Vec::new();
    for _ in 0..4 {
        let mut client = stage.client().await;
        client.send(post("/large", "{}")).await;
        takers.push(client);
    }
    // Their answers come to a stop once the kernel's buffers are full.
    let served = async { while honest(&stage, 1).await == 0 {} };
    let outcome = tokio::time::timeout(PATIENCE, served).await;
    assert!(outcome.is_ok(), "{}", stage.figures());
    assert!(stage.rejected("evicted") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_while_every_worker_is_busy() {
    let stage = stage(BOUNDS).await;
    let busy = Instant::now() + Duration::from_secs(2);
    let spin = || async move { while Instant::now() < busy {} };
    let _spinning = [tokio::spawn(spin()), tokio::spawn(spin())];
    let address = stage.address;
    let probes = std::thread::spawn(move || {
        let mut answered = 0;
        while Instant::now() < busy {
            use std::io::{Read, Write};
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            answered += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        answered
    });
    let answered = tokio::task::spawn_blocking(|| probes.join().unwrap())
        .await
        .unwrap();
    // No worker could have answered one.
    assert!(answered > 1, "{answered}");
}
