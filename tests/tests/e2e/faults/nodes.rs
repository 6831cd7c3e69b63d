//! Nodes are drained, and vanish.

use crate::load::{answered_by, during};
use crate::scene::{PATIENCE, Scene, tiers, with_scene_on};
use crate::system::alone;
use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zimage_crds::Tier;
use zimage_tests::commands::kubectl;
use zimage_tests::manifest::Change;
use zimage_tests::node::{FIRST, Vanished, of};
use zimage_tests::wait;

const SECOND: &str = "node2";
const CLIENTS: usize = 4;
/// The control plane takes 40 s to notice a dead node; the gateways must not wait for it.
const AWAY: Duration = Duration::from_secs(60);
/// When nothing more may be lost because of a node that vanished.
const NOTICED: Duration = Duration::from_secs(5);

fn two_each() -> Value {
    tiers()
        .with("spec.primary.replicas", json!(2))
        .with("spec.fallback.replicas", json!(2))
        .with("spec.gateway.replicas", json!(2))
}

async fn require_two_nodes(scene: &Scene) -> Result<()> {
    let nodes: Api<Node> = Api::all(scene.client.clone());
    ensure!(
        nodes.get_opt(SECOND).await?.is_some(),
        "there is one node: `make test LAYER=faults`, or `tests/cluster/cluster up NAME --nodes 2`"
    );
    Ok(())
}

/// Takes every pod from a node, as for its maintenance, and gives it back.
async fn drain(scene: &Scene, node: &str) -> Result<()> {
    let options = [
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=3m",
    ];
    let drained = kubectl(&[&["drain", node], &options[..]].concat(), "").await;
    let ready = match drained {
        Ok(_) => scene.ready().await.map(drop),
        Err(error) => Err(error),
    };
    kubectl(&["uncordon", node], "").await?;
    ready
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_each_node_in_turn_under_load_loses_no_request() -> Result<()> {
    let (client, _operator) = alone().await?;
    with_scene_on(client, two_each(), async |scene| {
        require_two_nodes(scene).await?;
        let service = scene.service().await?;
        let scenario = async {
            for node in [SECOND, FIRST] {
                drain(scene, node).await?;
            }
            Ok(())
        };
        let ((), answers) = during(&service, CLIENTS, scenario).await?;
        assert!(answered_by(Tier::Primary, &answers) > 0);
        Ok(())
    })
    .await
}

/// Moves the gateway to the first node: what enters the cluster over a machine that dies is lost with it.
async fn keep_the_gateway(scene: &Scene) -> Result<()> {
    kubectl(&["cordon", SECOND], "").await?;
    for pod in scene.gateway_pods().await? {
        if of(&pod)? == SECOND {
            scene
                .pods()
                .delete(&pod.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    let moved = wait::until(
        "the gateway to be on the first node",
        PATIENCE,
        async || {
            let pods = scene.gateway_pods().await?;
            let first = |pod: &Pod| of(pod).is_ok_and(|node| node == FIRST);
            Ok((!pods.is_empty() && pods.iter().all(first)).then_some(()))
        },
    )
    .await;
    kubectl(&["uncordon", SECOND], "").await?;
    moved?;
    scene.ready().await?;
    Ok(())
}

/// A server of each tier is on either node.
async fn require_spread(scene: &Scene) -> Result<()> {
    let mut nodes = Vec::new();
    for tier in Tier::ALL {
        for pod in scene.server_pods(tier).await? {
            nodes.push((tier, of(&pod)?.to_owned()));
        }
    }
    for tier in Tier::ALL {
        let on_second = nodes
            .iter()
            .filter(|(other, node)| *other == tier && node == SECOND)
            .count();
        ensure!(
            on_second == 1,
            "the scheduler did not spread the pods: {nodes:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_vanishes_loses_at_most_what_was_in_flight_there() -> Result<()> {
    let (client, _operator) = alone().await?;
    let manifest = two_each().with("spec.gateway.replicas", json!(1));
    with_scene_on(client, manifest, async |scene| {
        require_two_nodes(scene).await?;
        require_spread(scene).await?;
        keep_the_gateway(scene).await?;
        let gateway = scene.gateway().await?;
        let scenario = async {
            sleep(Duration::from_secs(3)).await;
            let begun = Instant::now();
            let vanished = Vanished::new(SECOND)?;
            sleep(AWAY).await;
            drop(vanished);
            Ok(begun)
        };
        let (vanished, answers) = during(&gateway, CLIENTS, scenario).await?;
        let lost: Vec<_> = answers
            .iter()
            .filter(|answer| answer.outcome.is_err())
            .collect();
        assert!(
            lost.len() <= CLIENTS,
            "{} of {} lost: {lost:?}",
            lost.len(),
            answers.len()
        );
        let late = lost
            .iter()
            .filter(|answer| answer.begun > vanished + NOTICED)
            .count();
        assert_eq!(late, 0, "{lost:?}");
        let meanwhile = answers
            .iter()
            .filter(|answer| answer.begun > vanished)
            .count();
        assert!(
            meanwhile > 100,
            "{meanwhile} requests while the node was away"
        );

        let nodes: Api<Node> = Api::all(scene.client.clone());
        wait::until("the node to be back", PATIENCE, async || {
            let status = nodes.get(SECOND).await?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let ready = |condition: &&NodeCondition| {
                condition.type_ == "Ready" && condition.status == "True"
            };
            Ok(conditions.iter().find(ready).map(drop))
        })
        .await?;
        scene.ready().await?;
        Ok(())
    })
    .await
}
