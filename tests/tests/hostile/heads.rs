//! Clients whose heads never end.

use crate::{Front, Scene};
use anyhow::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use zimage_tests::traffic::quantile;

const CONNECTIONS: usize = 10_000;
/// Time for a whole head, from its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// What making ten thousand connections on a busy machine adds.
const ALLOWANCE: Duration = Duration::from_secs(20);
/// How long a client waits for what must come sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the front let a head grow by a byte a second. Zero: it took no such connection.
async fn grow(target: SocketAddr) -> Duration {
    let Ok(mut connection) = TcpStream::connect(target).await else {
        return Duration::ZERO;
    };
    let begun = Instant::now();
    if connection
        .write_all(b"POST / HTTP/1.1\r\nX: ")
        .await
        .is_err()
    {
        return begun.elapsed();
    }
    let mut buffer = [0; 1024];
    while begun.elapsed() < PATIENCE {
        match timeout(Duration::from_secs(1), connection.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
            Err(_) => {
                if connection.write_all(b"a").await.is_err() {
                    break;
                }
            }
        }
    }
    begun.elapsed()
}

async fn grow_many(target: SocketAddr) -> Result<Vec<Duration>> {
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        connections.spawn(grow(target));
        if number % 200 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(connections.join_all().await)
}

async fn withstands(front: Front) -> Result<()> {
    let mut scene = Scene::start().await?;
    let target = scene.address(front);
    let held = scene.withstands(front, grow_many(target)).await?;
    // A few may be in the kernel's queue alone, of which the front knows nothing.
    let longest = quantile(&held, 0.99);
    assert!(
        longest < HEAD + ALLOWANCE,
        "a head could grow for {longest:?}, half of them for {:?} or less",
        quantile(&held, 0.5)
    );
    scene.stands()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_slow_heads_are_closed_by_a_gateway_and_keep_nobody_out() -> Result<()> {
    withstands(Front::Gateway).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_slow_heads_are_closed_by_a_server_and_keep_nobody_out() -> Result<()> {
    withstands(Front::Server).await
}
