//! Bodies of 32 MiB of every shape.

use crate::{Front, Scene, told};
use anyhow::Result;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use zimage_tests::traffic::{exchange, request, status};

const LIMIT: Duration = Duration::from_secs(120);
const LARGEST: usize = 32 << 20;
const AT_ONCE: usize = 4;
/// Shapes of bodies that there are.
const SHAPES: usize = 14;
/// How long bodies are sent at the least.
const LEAST: Duration = Duration::from_secs(10);

/// As many repetitions of `part` between `begin` and `end` as fit into the largest body.
fn filled(begin: &str, part: &str, end: &str) -> String {
    let count = (LARGEST - begin.len() - end.len()) / part.len();
    [begin, &part.repeat(count), end].concat()
}

/// A body by its number: the shapes that cost a parser most, and text fields that an answer might quote.
fn body(number: usize) -> String {
    match number % SHAPES {
        0 => filled(r#"{"prompt":"a","x":["#, r#"{"":0},"#, "{}]}"),
        1 => filled(r#"{"prompt":"a","x":["#, "0,", "0]}"),
        2 => filled(r#"{"prompt":"a","x":"#, "[", ""),
        3 => filled(r#"{"prompt":"a","x":"#, r#"{"a":"#, ""),
        4 => filled(r#"{"prompt":"a","model":""#, "\u{7f}", r#""}"#),
        5 => filled(r#"{"prompt":"a","model":""#, r"\u0000", r#""}"#),
        6 => filled(r#"{"prompt":""#, "狐", r#""}"#),
        7 => filled(r#"{"prompt":"a","size":""#, "6", r#""}"#),
        8 => filled(r#"{"prompt":"a","seed":"#, "9", "}"),
        9 => filled("{", r#""prompt":"a","#, r#""n":1}"#),
        10 => filled(r#"{"prompt":"a",""#, "k", r#"":1}"#),
        11 => filled("", " ", "{}"),
        12 => filled(r#"{"prompt":"a","size":"64x64","image":""#, "AAAA", r#""}"#),
        _ => noise(number),
    }
}

/// Text of no shape at all, the same for the same number.
fn noise(number: usize) -> String {
    let mut state = number as u64 | 1;
    (0..LARGEST)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b' ' + u8::try_from(state % 95).unwrap_or_default())
        })
        .collect()
}

/// What bodies were answered with; status 0: the connection was closed without an answer.
type Answers = BTreeMap<(u16, usize), String>;

/// Sends at least `count` bodies for at least [`LEAST`], some at a time; the answers by status and shape of the body.
async fn send(target: SocketAddr, count: usize) -> Result<Answers> {
    let begun = Instant::now();
    let mut sent = JoinSet::new();
    let mut answers = Answers::new();
    for number in 0.. {
        if number < count || begun.elapsed() < LEAST {
            sent.spawn(async move {
                let request = request(&body(number));
                (number, exchange(target, request.as_bytes(), LIMIT).await)
            });
            if number < AT_ONCE {
                continue;
            }
        }
        let Some(answer) = sent.join_next().await else {
            break;
        };
        let (number, answer) = answer?;
        let answer = answer?;
        assert!(
            answer.len() <= 4 << 10,
            "an answer of {} bytes",
            answer.len()
        );
        let told = String::from_utf8_lossy(&answer).into_owned();
        answers.insert((status(&answer).unwrap_or(0), number % SHAPES), told);
    }
    Ok(answers)
}

async fn withstands(front: Front, count: usize) -> Result<()> {
    let mut scene = Scene::start().await?;
    let target = scene.address(front);
    let answers = scene.withstands(front, send(target, count)).await?;
    let refused = [400, 404, 408, 413, 429, 503];
    let others = answers
        .iter()
        .find(|((status, _), _)| !refused.contains(status));
    assert!(others.is_none(), "{others:?}");
    told::of_the_refused(scene.front(front), count).await?;
    scene.stands()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_of_every_shape_are_refused_by_a_gateway_in_few_words() -> Result<()> {
    withstands(Front::Gateway, 28).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_of_every_shape_are_refused_by_a_server_in_few_words() -> Result<()> {
    withstands(Front::Server, 28).await
}

mod faults {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_large_bodies_do_not_end_a_gateway() -> Result<()> {
        withstands(Front::Gateway, 1000).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_large_bodies_do_not_end_a_server() -> Result<()> {
        withstands(Front::Server, 1000).await
    }
}
