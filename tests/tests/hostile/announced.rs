//! Clients that announce large bodies and send nothing, or nearly nothing.

use crate::{Front, Scene, told};
use anyhow::{Result, bail};
use futures::future::join_all;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use zimage_tests::traffic::GENERATIONS;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const CONNECTIONS: usize = 1000;
/// The largest body.
const LARGE: usize = 32 << 20;
/// The largest that has a share of its own in a gateway's memory.
const SMALL: usize = 64 << 10;
/// Longer than a sender may be slow.
const HELD: Duration = Duration::from_secs(15);
/// What a client that was turned away waits for.
const PAUSE: Duration = Duration::from_millis(500);

/// A body of `length` bytes, of which `sent` come.
#[derive(Clone, Copy)]
struct Announced {
    length: usize,
    sent: usize,
}

/// One client that announces a body, sends a part of it and waits. It comes again whenever it is turned away.
async fn announce(target: SocketAddr, from: Ipv4Addr, body: Announced) -> Result<()> {
    let head = format!(
        "POST {GENERATIONS} HTTP/1.1\r\nHost: fox\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.length
    );
    let body = vec![b' '; body.sent];
    loop {
        // A refusal may come before all was sent, and a front may have fewer places than there are clients.
        if let Ok(mut connection) = connect(target, from).await
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

async fn connect(target: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(target).await
}

async fn for_a_while(clients: impl Iterator<Item = impl Future>) -> Result<()> {
    match timeout(HELD, join_all(clients)).await {
        Ok(_) => bail!("the clients never end"),
        Err(_) => Ok(()),
    }
}

async fn withstands(front: Front, sent: usize) -> Result<()> {
    let mut scene = Scene::start().await?;
    let target = scene.address(front);
    let body = Announced {
        length: LARGE,
        sent,
    };
    let clients = (0..CONNECTIONS).map(|_| announce(target, LOCALHOST, body));
    scene.withstands(front, for_a_while(clients)).await?;
    told::of_the_refused(scene.front(front), CONNECTIONS / 2).await?;
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

/// All of the memory of small bodies would be theirs, by their shares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_bodies_from_many_addresses_leave_a_gateway_room_for_one_more() -> Result<()> {
    let mut scene = Scene::start().await?;
    let target = scene.address(Front::Gateway);
    let body = Announced {
        length: SMALL,
        sent: SMALL - 1,
    };
    // The honest clients have the ninth.
    let addresses = (0..8).map(|number| Ipv4Addr::new(127, 0, 1, number + 1));
    let clients = addresses.flat_map(|from| (0..64).map(move |_| announce(target, from, body)));
    scene
        .withstands(Front::Gateway, for_a_while(clients))
        .await?;
    told::of_the_refused(scene.front(Front::Gateway), 100).await?;
    scene.stands()
}
