//! What one reconciliation asks of the API server.

use super::*;
use crate::fake_api::{self, Call, refusal};
use crate::reconcile::build::kinds;
use axum::http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use serde_json::Value;

fn owner() -> ZImageDeployment {
    let tier = |variant: &str| {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        json!({"model": {"variant": variant, "source": source}})
    };
    serde_json::from_value(json!({
        "apiVersion": "zimage.dev/v1alpha1",
        "kind": "ZImageDeployment",
        "metadata": {"name": "fox", "namespace": "art", "uid": "1", "generation": 4},
        "spec": {"primary": tier("Turbo"), "fallback": tier("Base")},
    }))
    .unwrap()
}

fn ready_pod(part: Part) -> Pod {
    let mut labels = part.labels(&owner());
    labels.insert("pod-template-hash".to_owned(), "1".to_owned());
    let maker = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "",
        "name": format!("{}-1", part.name(&owner())), "controller": true});
    serde_json::from_value(json!({
        "metadata": {"name": part.name(&owner()), "namespace": "art", "labels": labels, "ownerReferences": [maker]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

/// An API server that stores what it is sent, the operator in front of it, and what that asked for.
struct Stage {
    context: Arc<Context>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Stage {
    /// `refuse` is asked before a child is stored.
    fn new(
        children: &[Value],
        pods: &[Pod],
        refuse: impl Fn(&Call) -> Option<(u16, Value)> + Send + Sync + 'static,
    ) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let client = fake_api::client(move |call| {
            seen.lock().unwrap().push(call.clone());
            if call.path.ends_with("/status") {
                return (200, serde_json::to_value(owner()).unwrap());
            }
            refuse(&call).unwrap_or((200, call.body))
        });
        let reporter = Reporter::from("test");
        let images = |name: &str| format!("{name}:1");
        let context = Context {
            caches: caches(children, pods),
            observer: Arc::new(Observer::new(Arc::default())),
            images: DefaultImages {
                server: images("server"),
                server_cuda: images("server-cuda"),
                gateway: images("gateway"),
            },
            peers: None,
            recorder: Recorder::new(client.clone(), reporter),
            metrics: Arc::default(),
            written: Mutex::default(),
            client,
        };
        Self {
            context: Arc::new(context),
            calls,
        }
    }

    async fn reconcile(&self, owner: ZImageDeployment) -> Result<Option<Duration>, ReconcileError> {
        reconcile(Arc::new(owner), Arc::clone(&self.context)).await
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The children that were applied.
    fn applied(&self) -> Vec<Value> {
        let calls = self.calls().into_iter();
        let children =
            calls.filter(|call| call.method == Method::PATCH && !call.path.ends_with("/status"));
        children.map(|call| call.body).collect()
    }

    /// The status that was written last.
    fn status(&self) -> Value {
        let calls = self.calls();
        let written = calls.iter().rfind(|call| call.path.ends_with("/status"));
        written.expect("a status was written").body["status"].clone()
    }
}

fn caches(children: &[Value], pods: &[Pod]) -> Caches {
    let stores = kinds().map(|kind| {
        let mut writer = Writer::new(kind.clone());
        for child in children.iter().filter(|child| child["kind"] == kind.kind) {
            let child = serde_json::from_value(child.clone()).unwrap();
            writer.apply_watcher_event(&Event::Apply(child));
        }
        writer.as_reader()
    });
    let mut writer = Writer::<Pod>::new(());
    for pod in pods {
        writer.apply_watcher_event(&Event::Apply(pod.clone()));
    }
    Caches {
        children: stores.to_vec(),
        pods: writer.as_reader(),
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    conditions
        .find(|condition| condition["type"] == kind)
        .unwrap()
}

#[tokio::test]
async fn a_refusal_freezes_neither_the_weights_nor_the_status() {
    let fallback = ready_pod(Part::Server(Tier::Fallback));
    for code in [403, 500] {
        let stage = Stage::new(&[], std::slice::from_ref(&fallback), move |call| {
            let is_deployment = call.path.contains("/deployments/");
            is_deployment.then(|| refusal(code, "exceeded quota"))
        });
        stage.reconcile(owner()).await.unwrap_err();
        let status = stage.status();
        assert_eq!(status["traffic"]["split"], "0/100", "{code}");
        let accepted = condition(&status, "Accepted");
        assert_eq!(accepted["reason"], "ApplyFailed", "{code}");
        let message = accepted["message"].as_str().unwrap();
        assert!(message.contains("exceeded quota"), "{message}");
    }
}

#[tokio::test]
async fn a_spec_that_cannot_be_is_not_tried_again() {
    let stage = Stage::new(&[], &[], |call| {
        let is_deployment = call.path.contains("/deployments/");
        is_deployment.then(|| refusal(422, "spec.template: Invalid value"))
    });
    stage.reconcile(owner()).await.unwrap();
    let status = stage.status();
    assert_eq!(condition(&status, "Accepted")["reason"], "InvalidSpec");
}

#[tokio::test]
async fn a_steady_state_makes_no_writes() {
    let first = Stage::new(&[], &[], |_| None);
    first.reconcile(owner()).await.unwrap();
    let children = first.applied();
    assert!(!children.is_empty());

    let second = Stage::new(&children, &[], |_| None);
    let mut known = owner();
    known.status = serde_json::from_value(first.status()).unwrap();
    second.reconcile(known).await.unwrap();
    let calls = second.calls();
    assert!(calls.is_empty(), "{calls:?}");
}

#[tokio::test]
async fn a_child_that_is_no_longer_wanted_is_deleted() {
    let first = Stage::new(&[], &[], |_| None);
    first.reconcile(owner()).await.unwrap();
    let second = Stage::new(&first.applied(), &[], |_| None);
    let mut alone = owner();
    alone.spec.fallback = None;
    second.reconcile(alone).await.unwrap();
    let calls = second.calls().into_iter();
    let mut deleted: Vec<_> = calls
        .filter(|call| call.method == Method::DELETE)
        .map(|call| call.path.rsplit_once("/art/").unwrap().1.to_owned())
        .collect();
    deleted.sort();
    assert_eq!(
        deleted,
        [
            "deployments/fox-fallback",
            "serviceaccounts/fox-fallback",
            "services/fox-fallback",
        ]
    );
}

/// The API server gives the gateway's account this UID when it is applied.
fn with_account(uid: &'static str) -> impl Fn(&Call) -> Option<(u16, Value)> + Send + Sync {
    move |call| {
        let is_account = call.path.ends_with("/serviceaccounts/fox-gateway");
        let mut account = call.body.clone();
        account["metadata"]["uid"] = uid.into();
        is_account.then_some((200, account))
    }
}

#[tokio::test]
async fn gateway_pods_go_with_the_account_whose_token_they_hold() {
    let account_of = |stage: &Stage| {
        let applied = stage.applied().into_iter();
        let mut gateways = applied.filter(|child| {
            child["kind"] == "Deployment" && child["metadata"]["name"] == "fox-gateway"
        });
        let template = gateways.next()?["spec"]["template"].clone();
        let annotations = template["metadata"]["annotations"].clone();
        Some(annotations["zimage.dev/service-account-uid"].clone())
    };
    let first = Stage::new(&[], &[], with_account("account-1"));
    first.reconcile(owner()).await.unwrap();
    assert_eq!(account_of(&first), Some("account-1".into()));

    // The account is deleted; what the others were applied with is still there.
    let is_account = |child: &Value| {
        child["kind"] == "ServiceAccount" && child["metadata"]["name"] == "fox-gateway"
    };
    let left: Vec<Value> = first
        .applied()
        .into_iter()
        .filter(|child| !is_account(child))
        .collect();
    let second = Stage::new(&left, &[], with_account("account-2"));
    second.reconcile(owner()).await.unwrap();
    assert_eq!(account_of(&second), Some("account-2".into()));
}

#[tokio::test]
async fn a_paused_deployment_is_left_alone_and_told_apart_by_whether_its_spec_runs() {
    let mut paused = owner();
    paused.spec.paused = true;
    let stage = Stage::new(&[], &[], |_| None);
    stage.reconcile(paused.clone()).await.unwrap();
    assert_eq!(stage.applied(), [Value::Null; 0]);
    let ready = condition(&stage.status(), "Ready").clone();
    assert_eq!(
        (&ready["status"], &ready["reason"]),
        (&"False".into(), &"Paused".into())
    );

    let first = Stage::new(&[], &[], |_| None);
    first.reconcile(owner()).await.unwrap();
    let applied = Stage::new(&first.applied(), &[], |_| None);
    applied.reconcile(paused.clone()).await.unwrap();
    assert_eq!(applied.applied(), [Value::Null; 0]);
    let accepted = condition(&applied.status(), "Accepted").clone();
    assert_eq!(
        (&accepted["status"], &accepted["reason"]),
        (&"True".into(), &"Paused".into())
    );

    paused.spec.primary.replicas = 3;
    let edited = Stage::new(&first.applied(), &[], |_| None);
    edited.reconcile(paused).await.unwrap();
    assert_eq!(edited.applied(), [Value::Null; 0]);
    let status = edited.status();
    let message = condition(&status, "Ready")["message"].to_string();
    assert!(
        message.contains("PodDisruptionBudget fox-primary, Deployment fox-primary"),
        "{message}"
    );
    assert_eq!(status["primary"]["ready"], "0/3");
}

#[tokio::test]
async fn a_pod_that_does_not_start_is_asked_about_and_looked_at_again() {
    let mut stuck = ready_pod(Part::Server(Tier::Primary));
    stuck.metadata.uid = Some("pod-1".to_owned());
    stuck.spec.get_or_insert_default().node_name = Some("node-1".to_owned());
    stuck.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
    let stage = Stage::new(&[], &[stuck], |call| {
        let events = json!([{"metadata": {}, "involvedObject": {}, "reason": "FailedMount", "message": "refused"}]);
        let list =
            json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": events});
        call.path.ends_with("/art/events").then_some((200, list))
    });
    let next = stage.reconcile(owner()).await.unwrap();
    assert_eq!(next, Some(kubelet::AGAIN));
    let status = stage.status();
    let primary = condition(&status, "PrimaryReady");
    assert_eq!(primary["reason"], "VolumeUnavailable");
    assert_eq!(primary["message"], "pod fox-primary: refused");
}
