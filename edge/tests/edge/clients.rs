//! Clients that wait, leave, or take nothing.

use crate::stage::{BOUNDS, PATIENCE, post, stage, status};
use socket2::SockRef;
use std::net::Shutdown;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use zimage_edge::{Bounds, Times};

const SHORT: Duration = Duration::from_millis(300);

fn within(times: Times) -> Bounds {
    Bounds { times, ..BOUNDS }
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte_however_many_follow() {
    let stage = stage(within(Times {
        head: SHORT,
        ..BOUNDS.times
    }))
    .await;
    let mut client = stage.client().await;
    let answer = async {
        let (mut read, mut write) = client.0.split();
        let drip = async {
            tokio::io::AsyncWriteExt::write_all(&mut write, b"GET / HTTP/1.1\r\nX-A: ")
                .await
                .unwrap();
            loop {
                tokio::time::sleep(SHORT / 10).await;
                if tokio::io::AsyncWriteExt::write_all(&mut write, b"a")
                    .await
                    .is_err()
                {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = vec![0; 16];
        tokio::select! {
            read = read.read_exact(&mut answer) => { read.unwrap(); }
            () = drip => {}
        }
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(
        status(&tokio::time::timeout(PATIENCE, answer).await.unwrap()),
        "408"
    );
    stage
        .shows("rejected_total{reason=\"head_timeout\",listener=\"api\"} 1")
        .await;
}

#[tokio::test]
async fn a_second_head_has_its_time_too() {
    let stage = stage(within(Times {
        head: SHORT,
        ..BOUNDS.times
    }))
    .await;
    let mut client = stage.client().await;
    client.send(post("/", "a")).await;
    client.until("\r\n\r\n1").await;
    client.send("GET /").await;
    assert_eq!(status(&client.all().await), "408");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let stage = stage(within(Times {
        idle: SHORT,
        ..BOUNDS.times
    }))
    .await;
    assert_eq!(stage.say("").await, "");
    let mut client = stage.client().await;
    client.send(post("/", "a")).await;
    client.until("\r\n\r\n1").await;
    assert_eq!(client.all().await, "");
}

#[tokio::test]
async fn bytes_after_a_request_do_not_end_it() {
    for after in ["\r\n".to_owned(), post("/", "next"), "x".repeat(100_000)] {
        let mut stage = stage(BOUNDS).await;
        let mut client = stage.client().await;
        client.send(post("/wait", "{}")).await;
        assert_eq!(stage.event().await, "begun");
        client.send(after.get(..20_000).unwrap_or(&after)).await;
        tokio::time::sleep(SHORT).await;
        stage.site.may_answer.add_permits(1);
        let answer = client.until("\r\n\r\n2").await;
        assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_has_finished_sending_is_answered() {
    let mut stage = stage(BOUNDS).await;
    let mut client = stage.client().await;
    client.send(post("/wait", "{}")).await;
    SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    assert_eq!(stage.event().await, "begun");
    tokio::time::sleep(SHORT).await;
    stage.site.may_answer.add_permits(1);
    let answer = client.all().await;
    let last = answer.rsplit_once("HTTP/1.1 ").unwrap().1;
    assert!(
        last.starts_with("200") && last.ends_with("\r\n\r\n2"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_of_http_1_0_that_has_finished_sending_is_answered() {
    let mut stage = stage(BOUNDS).await;
    let mut client = stage.client().await;
    client
        .send(post("/wait", "{}").replacen("HTTP/1.1", "HTTP/1.0", 1))
        .await;
    SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    assert_eq!(stage.event().await, "begun");
    stage.site.may_answer.add_permits(1);
    let answer = client.all().await;
    assert!(answer.ends_with("\r\n\r\n2"), "{answer}");
}

#[tokio::test]
async fn a_client_that_has_left_takes_its_work_with_it() {
    for after in ["", "\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut stage = stage(BOUNDS).await;
        let mut client = stage.client().await;
        client.send(post("/wait", "{}") + after).await;
        assert_eq!(stage.event().await, "begun");
        drop(client);
        assert_eq!(stage.event().await, "cancelled", "{after:?}");
        stage.shows("connections{listener=\"api\"} 0").await;
        stage.shows("buffered_bytes 0").await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_after_it_had_finished_sending_takes_its_work_with_it() {
    let mut stage = stage(BOUNDS).await;
    let mut client = stage.client().await;
    client.send(post("/wait", "{}")).await;
    SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    assert_eq!(stage.event().await, "begun");
    client.until("100 Continue\r\n\r\n").await;
    drop(client);
    assert_eq!(stage.event().await, "cancelled");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let stage = stage(within(Times {
        write: SHORT,
        ..BOUNDS.times
    }))
    .await;
    let mut client = stage.client().await;
    client.send(post("/large", "{}")).await;
    stage
        .shows("rejected_total{reason=\"write_timeout\",listener=\"api\"} 1")
        .await;
    stage.shows("connections{listener=\"api\"} 0").await;
    stage.shows("buffered_bytes 0").await;
}

#[tokio::test]
async fn leaving_ends_connections_after_their_request_and_closing_takes_no_more() {
    let mut stage = stage(BOUNDS).await;
    let mut idle = stage.client().await;
    idle.send(post("/", "a")).await;
    idle.until("\r\n\r\n1").await;
    stage.stop.leaving.cancel();
    let mut client = stage.client().await;
    client.send(post("/wait", "{}")).await;
    assert_eq!(stage.event().await, "begun");
    stage.stop.closed.cancel();
    assert_eq!(idle.all().await, "");
    assert!(!stage.ended.is_finished());
    stage.site.may_answer.add_permits(1);
    let answer = client.all().await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("\r\n\r\n2"),
        "{answer}"
    );
    let ended = tokio::time::timeout(PATIENCE, &mut stage.ended).await;
    ended.unwrap().unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(stage.address).await.is_err());
}
