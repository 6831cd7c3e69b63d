//! A list is refused, or held back: nothing is done meanwhile, and it is told which list it is.

use super::many;
use crate::process::Operator;
use crate::with_api;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_tests::relay::{Fault, Relay};
use zimage_tests::wait;

/// Every resource that the operator lists, and its kind.
const LISTS: [(&str, &str); 8] = [
    ("zimagedeployments", "ZImageDeployment"),
    ("pods", "Pod"),
    ("serviceaccounts", "ServiceAccount"),
    ("rolebindings", "RoleBinding"),
    ("networkpolicies", "NetworkPolicy"),
    ("services", "Service"),
    ("poddisruptionbudgets", "PodDisruptionBudget"),
    ("deployments", "Deployment"),
];
const DEPLOYMENTS: usize = 20;
const FIRST: Duration = Duration::from_secs(120);
/// A deployment is followed at the latest so long after the last obstacle.
const SOON: Duration = Duration::from_secs(10);
const TOLD: Duration = Duration::from_secs(10);

/// An operator that starts while `fault` is played says which list it misses and follows nothing; once the fault is over it
/// follows everything soon.
#[expect(clippy::print_stdout, reason = "the measured figure")]
async fn misses(
    fault: fn(&'static str) -> Fault,
    lists: &[(&'static str, &str)],
    obstacle: Duration,
) -> Result<()> {
    with_api(async |client, namespace| {
        many(&client, &namespace, DEPLOYMENTS).await?;
        let folder = tempfile::tempdir()?;
        let relay = Relay::start(&client, &namespace, "operator").await?;
        let start = || Operator::start(&relay, &namespace, "operator", folder.path());
        let first = start()?;
        first.follows(DEPLOYMENTS, FIRST).await?;
        first.stop()?;
        for (resource, kind) in lists {
            relay.play(fault(resource));
            let operator = start()?;
            let begun = Instant::now();
            let list = format!("{kind}s in namespace {namespace}: ");
            wait::until("the operator to name the list", TOLD, async || {
                let obstacles = operator.obstacles().await?.context("it is ready")?;
                ensure!(obstacles.contains(&list), "it says {obstacles}");
                Ok(Some(()))
            })
            .await?;
            sleep(obstacle.saturating_sub(begun.elapsed())).await;
            let obstacles = operator.obstacles().await?;
            ensure!(
                obstacles.is_some_and(|it| it.contains(&list)),
                "{list} is not told any more"
            );
            ensure!(operator.followed().await? == 0, "it acts without {list}");
            relay.play(Fault::None);
            let over = Instant::now();
            operator.follows(DEPLOYMENTS, SOON).await?;
            println!(
                "{resource}: {fault:?} for {obstacle:?}, all followed {:?} later",
                over.elapsed(),
                fault = fault(resource)
            );
            operator.stop()?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_refused_is_named_and_everything_followed_soon_after() -> Result<()> {
    misses(Fault::Refused, &LISTS[4..5], Duration::from_secs(8)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_late_is_named_and_everything_followed_soon_after() -> Result<()> {
    misses(Fault::HeldBack, &LISTS[1..2], Duration::from_secs(8)).await
}

mod minutes {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_list_that_is_refused_for_a_minute_is_named_and_everything_followed_soon_after()
    -> Result<()> {
        misses(Fault::Refused, &LISTS, Duration::from_secs(60)).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_list_that_is_late_by_a_minute_is_named_and_everything_followed_soon_after()
    -> Result<()> {
        misses(Fault::HeldBack, &LISTS, Duration::from_secs(60)).await
    }
}
