//! Clients that announce large bodies and send nothing, or nearly nothing.

use crate::honest::during;
use crate::{Front, Scene};
use anyhow::{Result, bail};
use futures::future::join_all;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use zimage_tests::traffic::GENERATIONS;

const CONNECTIONS: usize = 1000;
/// Longer than a sender may be slow.
const HELD: Duration = Duration::from_secs(15);
/// What a client that was turned away waits for.
const PAUSE: Duration = Duration::from_millis(500);

/// One client that announces 32 MiB, sends `sent` bytes of them and waits. It comes again whenever it is turned away.
async fn announce(target: SocketAddr, sent: usize) -> Result<()> {
    let head = format!(
        "POST {GENERATIONS} HTTP/1.1\r\nHost: fox\r\nContent-Type: application/json\r\nContent-Length: 33554432\r\n\r\n"
    );
    let body = vec![b' '; sent];
    loop {
        // A refusal may come before all was sent, and a front may have fewer places than there are clients.
        if let Ok(mut connection) = TcpStream::connect(target).await
            && connection.write_all(head.as_bytes()).await.is_ok()
            && connection.write_all(&body).await.is_ok()
        {
            let mut answer = [0; 1024];
            while let Ok(read) = connection.read(&mut answer).await
                && read > 0
            {}
        }
        sleep(PAUSE).await;
    }
}

async fn announce_many(target: SocketAddr, sent: usize) -> Result<()> {
    let clients = join_all((0..CONNECTIONS).map(|_| announce(target, sent)));
    match timeout(HELD, clients).await {
        Ok(_) => bail!("the clients never end"),
        Err(_) => Ok(()),
    }
}

async fn withstands(front: Front, sent: usize) -> Result<()> {
    let mut scene = Scene::start().await?;
    let target = scene.address(front);
    let ((), seen) = during(target, announce_many(target, sent)).await?;
    seen.nobody_was_hurt();
    scene.stands()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_announced_bodies_do_not_keep_small_requests_from_a_gateway() -> Result<()> {
    withstands(Front::Gateway, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_announced_bodies_do_not_keep_small_requests_from_a_server() -> Result<()> {
    withstands(Front::Server, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_bodies_of_which_a_mebibyte_came_do_not_fill_a_gateway() -> Result<()> {
    withstands(Front::Gateway, 1 << 20).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_bodies_of_which_a_mebibyte_came_do_not_fill_a_server() -> Result<()> {
    withstands(Front::Server, 1 << 20).await
}
