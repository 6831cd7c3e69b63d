use super::list::{DOUBTFUL, MENDED};
use super::*;
use crate::fake_api::{self, OPEN, SILENCE, list, refusal};
use crate::health::Health;
use crate::leader::Lead;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU16, Ordering};

const SECOND: Duration = Duration::from_secs(1);
const WHOLE: u16 = 200;

fn deployment(number: usize) -> Value {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    json!({"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
        "metadata": {"name": format!("d{number}"), "namespace": "art", "uid": number.to_string(), "generation": 1},
        "spec": {"primary": {"model": {"variant": "Turbo", "source": source}}}})
}

/// A scope of one hundred deployments whose list of `plural` is answered as `code` says.
fn scope(plural: &'static str, code: &Arc<AtomicU16>) -> Arc<Scope> {
    let code = Arc::clone(code);
    let deployments: Vec<_> = (0..100).map(deployment).collect();
    let client = fake_api::client(move |call| {
        if call.is_watch() {
            return (OPEN, Value::Null);
        }
        match code.load(Ordering::Relaxed) {
            code if code != WHOLE && call.path.ends_with(&format!("/{plural}")) => {
                refusal(code, "not for you")
            }
            _ if call.path.ends_with("/zimagedeployments") => list(&deployments),
            _ => list(&[]),
        }
    });
    Arc::new(Scope::follow(&client, None, &TaskTracker::new()))
}

const PLURALS: [&str; 8] = [
    "zimagedeployments",
    "pods",
    "serviceaccounts",
    "rolebindings",
    "networkpolicies",
    "services",
    "poddisruptionbudgets",
    "deployments",
];

/// A cluster may lack this kind.
const OPTIONAL: &str = "poddisruptionbudgets";

#[tokio::test(start_paused = true)]
async fn a_list_that_is_refused_or_unanswered_is_named_and_holds_up_no_other() {
    for plural in PLURALS {
        for refused in [403, 404, 500, SILENCE] {
            if (refused, plural) == (404, OPTIONAL) {
                continue;
            }
            let code = Arc::new(AtomicU16::new(refused));
            let scope = scope(plural, &code);
            let health = Health::new(vec![Arc::clone(&scope)], Lead::default());
            sleep(60 * SECOND).await;
            assert!(!scope.is_whole());
            let why = health.ready().unwrap_err();
            assert_eq!(why.lines().count(), 1, "{why}");
            let singular = plural.trim_end_matches("ies").trim_end_matches('s');
            assert!(why.to_lowercase().starts_with(singular), "{plural}: {why}");
            assert_eq!(health.alive(), Ok(()));

            code.store(WHOLE, Ordering::Relaxed);
            // A call that is not answered ends with the client's deadline, which is not part of this server.
            let limit = if refused == SILENCE {
                STALLED
            } else {
                10 * SECOND
            };
            sleep(limit).await;
            assert_eq!(health.ready(), Ok(()), "{plural} {refused}");
            assert_eq!(scope.owners.len(), 100);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_cannot_be_read_hides_no_other() {
    let client = fake_api::client(|call| {
        if call.is_watch() {
            return (OPEN, Value::Null);
        }
        let mut later = deployment(1);
        later["spec"]["primary"]["model"]["variant"] = json!("Later");
        match call.path.ends_with("/zimagedeployments") {
            true => list(&[deployment(0), later, deployment(2)]),
            false => list(&[]),
        }
    });
    let scope = Scope::follow(&client, None, &TaskTracker::new());
    sleep(SECOND).await;
    assert!(scope.is_whole());
    assert_eq!(scope.owners.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_for_long_makes_what_is_known_doubtful_until_it_runs_again() {
    let code = Arc::new(AtomicU16::new(WHOLE));
    let watched = Arc::clone(&code);
    let client = fake_api::client(move |call| match watched.load(Ordering::Relaxed) {
        WHOLE if call.is_watch() => (OPEN, Value::Null),
        WHOLE => list(&[]),
        code => refusal(code, "overloaded"),
    });
    let scope = Scope::follow(&client, None, &TaskTracker::new());
    while !scope.is_whole() {
        sleep(SECOND / 100).await;
    }
    code.store(500, Ordering::Relaxed);
    // The watches that run end by themselves.
    sleep(Duration::from_secs(u64::from(WATCH_SECONDS)) + DOUBTFUL / 2).await;
    assert_eq!(scope.obstacles(), Vec::<String>::new());
    sleep(DOUBTFUL).await;
    assert_eq!(scope.obstacles().len(), PLURALS.len());
    code.store(WHOLE, Ordering::Relaxed);
    sleep(MENDED + LONGEST_PAUSE).await;
    assert_eq!(scope.obstacles(), Vec::<String>::new());
}

#[test]
fn of_what_others_may_write_into_an_object_little_is_kept() {
    let long = "x".repeat(250_000);
    let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a",
        "annotations": {"short": "kept", "long": long}, "managedFields": [{"manager": "m"}]}}))
    .unwrap();
    slim(&mut pod);
    let kept = json!({"metadata": {"name": "a", "annotations": {"short": "kept"}}});
    assert_eq!(pod, serde_json::from_value(kept).unwrap());
}
