//! A leader whose writes are taken and never answered, while all it reads is: by the API server's own record of who wrote
//! what and when.

use super::many;
use crate::process::Operator;
use crate::with_api;
use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::ZImageDeployment;
use zimage_tests::node::exec;
use zimage_tests::relay::{Fault, Relay};
use zimage_tests::wait;

/// How long a lease holds after it was renewed.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
/// Longer than the lease.
const AWAY: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);

/// When the account wrote: its lease, and anything else.
async fn writes(namespace: &str, account: &str) -> Result<(Vec<Timestamp>, Vec<Timestamp>)> {
    let log = exec(&["cat", "/run/cluster/log/audit.log"]).await?;
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let written = events.filter(|event| {
        let code = event["responseStatus"]["code"].as_u64();
        event["user"]["username"] == user.as_str() && code.is_some_and(|code| code < 300)
    });
    let (mut renewals, mut others) = (Vec::new(), Vec::new());
    for event in written {
        let at = event["requestReceivedTimestamp"].as_str();
        let at = at.context("an event has its time")?.parse()?;
        match event["objectRef"]["resource"] == "leases" {
            true => renewals.push(at),
            false => others.push(at),
        }
    }
    Ok((renewals, others))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_writes_are_swallowed_ends_and_writes_nothing_after_its_lease() -> Result<()>
{
    with_api(async |client, namespace| {
        many(&client, &namespace, 1).await?;
        let folder = tempfile::tempdir()?;
        let relay = Relay::start(&client, &namespace, "former").await?;
        let other = Relay::start(&client, &namespace, "latter").await?;
        let mut former = Operator::start(&relay, &namespace, "former", folder.path())?;
        former.follows(1, PATIENCE).await?;
        let latter = Operator::start(&other, &namespace, "latter", folder.path())?;

        let objects: Api<ZImageDeployment> = Api::namespaced(client.clone(), &namespace);
        let change = async |seconds: u32| -> Result<()> {
            let patch = json!({"spec": {"traffic": {"shift": {"windowSeconds": seconds}}}});
            let patch = Patch::Merge(&patch);
            objects
                .patch("fox-0", &PatchParams::default(), &patch)
                .await?;
            Ok(())
        };
        relay.play(Fault::Swallowed);
        let swallowed = Instant::now();
        while swallowed.elapsed() < AWAY {
            // So that there is something to write.
            change(31).await?;
            change(32).await?;
            sleep(Duration::from_secs(1)).await;
        }
        let status = former.ended()?.context("the former leader goes on")?;
        ensure!(!status.success(), "{status}");
        // What was swallowed is let go of.
        relay.play(Fault::None);
        change(33).await?;
        latter.follows(1, PATIENCE).await?;
        wait::until("the latter leader to act", PATIENCE, async || {
            let object = objects.get("fox-0").await?;
            let observed = object.status.and_then(|status| status.observed_generation);
            Ok((observed == object.metadata.generation).then_some(()))
        })
        .await?;

        let (renewals, others) = writes(&namespace, "former").await?;
        let last = renewals.iter().max().context("it renewed its lease")?;
        for write in others {
            let since = write.duration_since(*last);
            ensure!(since <= LEASE, "it wrote {since:?} after its last renewal");
        }
        let (_, others) = writes(&namespace, "latter").await?;
        ensure!(!others.is_empty(), "no other took over");
        Ok(())
    })
    .await
}
