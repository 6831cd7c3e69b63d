use super::*;
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

fn deployment(name: &str, generation: i64) -> ZImageDeployment {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    serde_json::from_value(json!({
        "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
        "metadata": {"name": name, "namespace": "art", "uid": name, "generation": generation},
        "spec": {"primary": {"model": {"variant": "Turbo", "source": source}}},
    }))
    .unwrap()
}

fn named(name: &str) -> DeploymentRef {
    DeploymentRef::new(name).within("art")
}

fn of(names: &[&str]) -> Changes {
    let changes = Changes::default();
    changes.all(
        names
            .iter()
            .map(|name| std::sync::Arc::new(deployment(name, 1))),
    );
    changes.lead();
    changes
}

/// What is handed over within `limit`.
async fn handed_over(changes: &Changes, limit: Duration) -> Vec<String> {
    let mut names = Vec::new();
    let all = async {
        loop {
            names.push(changes.next().await.name);
        }
    };
    let _elapsed = tokio::time::timeout(limit, all).await;
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_reconciles_every_deployment_once() {
    let changes = of(&["a", "b", "c"]);
    assert_eq!(handed_over(&changes, SECOND).await, ["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        changes.begins(&named(name));
        changes.ended(&named(name));
    }
    let progress = changes.progress();
    assert_eq!((progress.known, progress.followed), (3, 3));
    assert!(handed_over(&changes, 60 * SECOND).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_status_is_no_change_and_a_new_spec_is() {
    let changes = of(&["a"]);
    changes.begins(&named("a"));
    changes.ended(&named("a"));
    changes.applied(&deployment("a", 1));
    assert!(handed_over(&changes, SECOND).await.is_empty());
    changes.applied(&deployment("a", 2));
    assert_eq!(handed_over(&changes, SECOND).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_what_does_not_exist_are_dropped() {
    let changes = of(&["a"]);
    changes.begins(&named("a"));
    changes.touched(named("nobody"));
    assert!(handed_over(&changes, SECOND).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_reconciliation_leads_to_another() {
    let changes = of(&["a"]);
    handed_over(&changes, SECOND).await;
    changes.begins(&named("a"));
    changes.touched(named("a"));
    changes.touched(named("a"));
    changes.ended(&named("a"));
    assert_eq!(handed_over(&changes, SECOND).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_reconciliation_does_not_begin_is_handed_over_again() {
    let changes = of(&["a"]);
    assert_eq!(handed_over(&changes, AGAIN - SECOND).await, ["a"]);
    assert_eq!(handed_over(&changes, 2 * SECOND).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn work_that_stands_still_is_seen_and_idleness_is_none() {
    let changes = of(&["a", "b"]);
    tokio::time::advance(90 * SECOND).await;
    let progress = changes.progress();
    assert_eq!(
        (progress.stuck, progress.oldest),
        (90 * SECOND, 90 * SECOND)
    );
    for name in ["a", "b"] {
        changes.begins(&named(name));
        changes.ended(&named(name));
    }
    changes.progress();
    tokio::time::advance(3600 * SECOND).await;
    assert_eq!(changes.progress().stuck, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_standby_has_nothing_to_do() {
    let changes = Changes::default();
    changes.applied(&deployment("a", 1));
    tokio::time::advance(3600 * SECOND).await;
    let progress = changes.progress();
    assert_eq!(
        (progress.stuck, progress.oldest),
        (Duration::ZERO, Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_goes_frees_names_for_others() {
    let changes = of(&["a", "a-primary"]);
    for name in ["a", "a-primary"] {
        changes.begins(&named(name));
        changes.ended(&named(name));
    }
    changes.deleted(&deployment("a", 1));
    assert_eq!(handed_over(&changes, SECOND).await, ["a-primary"]);
    assert!(!changes.exists(&named("a")));
}
