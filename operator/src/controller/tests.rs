use super::*;
use crate::fake_api::{self, Call, OPEN, SILENCE, list, refusal};
use crate::health::Health;
use crate::leader::Lead;
use axum::http::Method;
use kube::runtime::events::Reporter;
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

const SECOND: Duration = Duration::from_secs(1);
const COUNT: usize = 100;

fn deployment(number: usize) -> Value {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    json!({"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
        "metadata": {"name": format!("d{number}"), "namespace": "art", "uid": number.to_string(), "generation": 1},
        "spec": {"primary": {"model": {"variant": "Turbo", "source": source}}}})
}

/// A cluster of so many deployments in which nothing exists yet and every write succeeds, unless `special` answers.
fn cluster(
    count: usize,
    special: impl Fn(&Call) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> Client {
    let deployments: Vec<_> = (0..count).map(deployment).collect();
    fake_api::client(move |call| {
        if let Some(answer) = special(&call) {
            return answer;
        }
        let last = call.path.rsplit('/').next().unwrap_or_default();
        match call.method {
            Method::GET if call.is_watch() => (OPEN, Value::Null),
            Method::GET if last == "zimagedeployments" => list(&deployments),
            Method::GET if last.ends_with('s') => list(&[]),
            Method::GET => refusal(404, "not found"),
            _ => (200, call.body),
        }
    })
}

/// What `main` does once it leads.
async fn lead(client: &Client, scope: Arc<Scope>) {
    let shared = Shared {
        client: client.clone(),
        images: DefaultImages {
            server: "server:1".to_owned(),
            server_cuda: "server-cuda:1".to_owned(),
            gateway: "gateway:1".to_owned(),
        },
        peers: None,
        gateway_role: RoleRef::default(),
        recorder: Recorder::new(client.clone(), Reporter::from("test")),
        metrics: Arc::default(),
    };
    while !scope.is_whole() {
        sleep(SECOND / 10).await;
    }
    let observer = Arc::new(Observer::new(shared.metrics.scrapes()));
    run(shared, scope, observer).await;
}

#[tokio::test(start_paused = true)]
async fn every_deployment_is_followed_within_ten_seconds_of_the_last_obstacle() {
    for late in ["zimagedeployments", "poddisruptionbudgets", "pods"] {
        let obstacle = Duration::from_secs(60);
        let begun = Instant::now();
        let client = cluster(COUNT, move |call| {
            let refused = begun.elapsed() < obstacle && call.path.ends_with(late);
            refused.then(|| refusal(403, "not for you"))
        });
        let scope = Arc::new(Scope::follow(&client, None, &TaskTracker::new()));
        let health = Health::new(vec![Arc::clone(&scope)], Lead::default());
        let leading = lead(&client, Arc::clone(&scope));
        let watching = async {
            sleep(obstacle - SECOND).await;
            health.ready().unwrap_err();
            sleep(11 * SECOND).await;
            assert_eq!(scope.changes.progress().followed, COUNT, "{late}");
            assert_eq!(health.ready(), Ok(()), "{late}");
        };
        tokio::select! {
            () = leading => panic!("the controller ended"),
            () = watching => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_cluster_lacks_is_neither_waited_for_nor_made_until_it_is_there() {
    let begun = Instant::now();
    let made = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&made);
    let client = cluster(COUNT, move |call| {
        let is_budget = call.path.ends_with("/poddisruptionbudgets");
        if is_budget && call.method == Method::POST {
            *counted.lock().unwrap() += 1;
        }
        let is_lacking = is_budget && begun.elapsed() < 60 * SECOND;
        is_lacking.then(|| refusal(404, "the server could not find the requested resource"))
    });
    let scope = Arc::new(Scope::follow(&client, None, &TaskTracker::new()));
    let health = Health::new(vec![Arc::clone(&scope)], Lead::default());
    let watching = async {
        sleep(30 * SECOND).await;
        assert_eq!(scope.changes.progress().followed, COUNT);
        assert_eq!(health.ready(), Ok(()));
        assert_eq!(*made.lock().unwrap(), 0);
        sleep(60 * SECOND).await;
        assert_eq!(health.ready(), Ok(()));
        assert!(*made.lock().unwrap() >= COUNT);
    };
    tokio::select! {
        () = lead(&client, Arc::clone(&scope)) => panic!("the controller ended"),
        () = watching => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_reconciliation_that_hangs_or_panics_is_one_deployment_s_alone() {
    let client = cluster(COUNT, |call| {
        let name = call.body["metadata"]["name"].as_str().unwrap_or_default();
        let is_of = |component: &str| call.method != Method::GET && name.contains(component);
        assert!(!is_of("d7-"), "a fault of the program");
        is_of("d8-").then_some((SILENCE, Value::Null))
    });
    let scope = Arc::new(Scope::follow(&client, None, &TaskTracker::new()));
    let health = Health::new(vec![Arc::clone(&scope)], Lead::default());
    let watching = async {
        sleep(30 * SECOND).await;
        assert_eq!(scope.changes.progress().followed, COUNT - 1);
        sleep(DEADLINE).await;
        assert_eq!(scope.changes.progress().followed, COUNT);
        assert_eq!(health.alive(), Ok(()));
    };
    tokio::select! {
        () = lead(&client, Arc::clone(&scope)) => panic!("the controller ended"),
        () = watching => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_did_not_change_is_looked_at_now_and_then() {
    let looks = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&looks);
    let client = cluster(1, move |call| {
        if call.path.ends_with("/d0/status") {
            *counted.lock().unwrap() += 1;
        }
        None
    });
    let scope = Arc::new(Scope::follow(&client, None, &TaskTracker::new()));
    tokio::select! {
        () = lead(&client, Arc::clone(&scope)) => panic!("the controller ended"),
        () = sleep(RESYNC + 10 * SECOND) => {}
    }
    assert!(*looks.lock().unwrap() >= 2, "{looks:?}");
}
