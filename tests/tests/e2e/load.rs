//! Clients of the gateway.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zimage_crds::Tier;
use zimage_tests::forward::Forward;

/// Longer than it takes to find out that a pod stands still: the request is then asked of another.
const TIMEOUT: Duration = Duration::from_secs(400);

/// What one request got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    /// The tier that made the image, or what went wrong.
    pub(crate) outcome: Result<Tier, String>,
}

/// Sends `count` requests to the gateway, at most `clients` at a time.
pub(crate) async fn send(gateway: &Forward, count: usize, clients: usize) -> Result<Vec<Answer>> {
    let left = Arc::new(AtomicUsize::new(count));
    run(gateway, clients, move || {
        left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    })
    .await
}

/// Clients that send request after request while `scenario` runs.
pub(crate) async fn during<T>(
    gateway: &Forward,
    clients: usize,
    scenario: impl Future<Output = Result<T>>,
) -> Result<(T, Vec<Answer>)> {
    let running = Arc::new(());
    let weak = Arc::downgrade(&running);
    let scenario = async move {
        let outcome = scenario.await;
        drop(running);
        outcome
    };
    tokio::try_join!(
        scenario,
        run(gateway, clients, move || weak.strong_count() > 0)
    )
}

async fn run(
    gateway: &Forward,
    clients: usize,
    go_on: impl Fn() -> bool + Clone + Send + 'static,
) -> Result<Vec<Answer>> {
    let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (http, url, go_on) = (
            http.clone(),
            gateway.url("/v1/images/generations"),
            go_on.clone(),
        );
        tasks.spawn(async move {
            let mut answers = Vec::new();
            while go_on() {
                let begun = Instant::now();
                let outcome = request(&http, &url)
                    .await
                    .map_err(|error| format!("{error:#}"));
                let took = begun.elapsed();
                answers.push(Answer {
                    begun,
                    took,
                    outcome,
                });
            }
            answers
        });
    }
    Ok(tasks.join_all().await.into_iter().flatten().collect())
}

async fn request(http: &reqwest::Client, url: &str) -> Result<Tier> {
    let body = json!({"prompt": "a fox in the snow", "size": "64x64"});
    let response = http.post(url).json(&body).send().await?;
    let status = response.status();
    let tier = response
        .headers()
        .get("x-zimage-tier")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let text = response.text().await?;
    anyhow::ensure!(status == StatusCode::OK, "{status}: {text}");
    let tier = tier.context("the answer names its tier")?;
    Tier::ALL
        .into_iter()
        .find(|candidate| candidate.as_str() == tier)
        .context("the tier is one of the two")
}

/// How many requests a tier answered; fails when any request was lost.
#[track_caller]
pub(crate) fn answered_by(tier: Tier, answers: &[Answer]) -> usize {
    let lost: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.outcome.as_ref().err())
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} requests lost, such as {:?}",
        lost.len(),
        answers.len(),
        lost.first()
    );
    answers
        .iter()
        .filter(|answer| answer.outcome == Ok(tier))
        .count()
}
