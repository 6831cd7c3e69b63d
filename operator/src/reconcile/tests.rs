//! What one reconciliation asks of the API server.

use super::*;
use crate::fake_api::{self, Call, refusal};
use crate::fault::Cause;
use crate::observe::ScrapeMetrics;
use crate::reconcile::build::kinds;
use crate::reconcile::dereference::Children;
use axum::http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::sync::Mutex;
use zimage_crds::Tier;

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

fn ready_pod(component: Component) -> Pod {
    let mut labels = component.labels(&owner());
    labels.insert("pod-template-hash".to_owned(), "1".to_owned());
    let maker = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "",
        "name": format!("{}-1", component.name(&owner())), "controller": true});
    serde_json::from_value(json!({
        "metadata": {"name": component.name(&owner()), "namespace": "art", "labels": labels, "ownerReferences": [maker]},
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
            refuse(&call).unwrap_or_else(|| match call.method {
                Method::GET if call.path.ends_with("/events") => fake_api::list(&[]),
                Method::GET => refusal(404, "not found"),
                _ => (200, call.body),
            })
        });
        let reporter = Reporter::from("test");
        let images = |name: &str| format!("{name}:1");
        let context = Context {
            caches: caches(children, pods),
            observer: Arc::new(Observer::new(ScrapeMetrics::default())),
            images: DefaultImages {
                server: images("server"),
                server_cuda: images("server-cuda"),
                gateway: images("gateway"),
            },
            peers: None,
            gateway_role: RoleRef::default(),
            recorder: Recorder::new(client.clone(), reporter),
            metrics: Arc::default(),
            written: Written::default(),
            failures: Failures::default(),
            reverts: Reverts::default(),
            client,
        };
        Self {
            context: Arc::new(context),
            calls,
        }
    }

    async fn reconcile(&self, owner: ZImageDeployment) -> Result<Option<Duration>, ReconcileError> {
        Box::pin(reconcile(Arc::new(owner), Arc::clone(&self.context))).await
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The children that were created or applied.
    fn applied(&self) -> Vec<Value> {
        let children = self.calls().into_iter().filter(|call| {
            let writes = [Method::POST, Method::PATCH].contains(&call.method);
            writes && !call.path.ends_with("/status") && !call.path.ends_with("/events")
        });
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
    let of_kinds = kinds().map(|kind| {
        let mut writer = Writer::new(kind.clone());
        for child in children.iter().filter(|child| child["kind"] == kind.kind) {
            let child = serde_json::from_value(child.clone()).unwrap();
            writer.apply_watcher_event(&Event::Apply(child));
        }
        Children {
            kind,
            objects: writer.as_reader(),
            is_served: Arc::new(true.into()),
        }
    });
    let mut writer = Writer::<Pod>::new(());
    for pod in pods {
        writer.apply_watcher_event(&Event::Apply(pod.clone()));
    }
    Caches {
        owners: Writer::new(()).as_reader(),
        children: of_kinds.to_vec(),
        pods: writer.as_reader(),
    }
}

fn is_write_of(call: &Call, plural: &str) -> bool {
    call.method != Method::GET && call.path.contains(&format!("/{plural}"))
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    conditions
        .find(|condition| condition["type"] == kind)
        .unwrap()
}

#[tokio::test]
async fn a_refusal_freezes_neither_the_weights_nor_the_status() {
    let fallback = ready_pod(Component::Server(Tier::Fallback));
    for code in [403, 500] {
        let stage = Stage::new(&[], std::slice::from_ref(&fallback), move |call| {
            let is_deployment = is_write_of(call, "deployments");
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
async fn a_field_that_the_api_server_refuses_is_the_spec_s_fault() {
    let stage = Stage::new(&[], &[], |call| {
        let is_deployment = is_write_of(call, "deployments");
        let (code, mut body) = refusal(422, "spec.template: Invalid value");
        body["details"] =
            json!({"causes": [{"reason": "FieldValueInvalid", "field": "spec.template"}]});
        is_deployment.then_some((code, body))
    });
    let error = stage.reconcile(owner()).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Spec);
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
            "serviceaccounts/zimage-fox-fallback-453db849",
            "services/fox-fallback",
        ]
    );
}

fn service(name: &str, metadata: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"selector": {"app": "payments"}, "ports": [{"port": 443}]}});
    service["metadata"]["name"] = name.into();
    service["metadata"]["namespace"] = "art".into();
    service
}

/// A Service is there that the cache does not know as the deployment's.
fn with_service(service: Value) -> impl Fn(&Call) -> Option<(u16, Value)> + Send + Sync {
    move |call| {
        let path = format!("/services/{}", service["metadata"]["name"].as_str()?);
        (call.method == Method::GET && call.path.ends_with(&path)).then(|| (200, service.clone()))
    }
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone_and_nothing_is_made_beside_it() {
    let of_a_team = json!({"uid": "theirs", "labels": {"team": "core-banking"}});
    let stage = Stage::new(&[], &[], with_service(service("fox", of_a_team)));
    let error = stage.reconcile(owner()).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Outside);
    assert_eq!(stage.applied(), [Value::Null; 0]);
    let deleted = stage.calls().into_iter();
    assert_eq!(
        deleted.filter(|call| call.method == Method::DELETE).count(),
        0
    );
    let status = stage.status();
    let accepted = condition(&status, "Accepted");
    assert_eq!(accepted["reason"], "NameTaken");
    let message = accepted["message"].as_str().unwrap();
    assert!(message.starts_with("Service fox exists"), "{message}");
}

#[tokio::test]
async fn a_binding_that_works_is_kept_where_one_to_another_role_would_be_refused() {
    let stage = Stage::new(&[], &[], |call| {
        let (_, name) = call.path.split_once("/rolebindings")?;
        match (&call.method, name.strip_prefix('/')) {
            (&Method::GET, Some(name)) => Some((
                200,
                json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                    "metadata": {"name": name, "namespace": "art", "uid": "live", "ownerReferences": [
                        {"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment", "name": "fox",
                            "uid": "1", "controller": true}]},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "before"}}),
            )),
            (&Method::POST, _) => Some(refusal(403, "may not bind")),
            _ => None,
        }
    });
    let error = stage.reconcile(owner()).await.unwrap_err();
    assert!(error.message().contains("may not bind"), "{error}");
    let mut calls = stage.calls().into_iter();
    assert!(!calls.any(|call| call.method == Method::DELETE));
}

#[tokio::test]
async fn a_missing_child_is_created_and_never_applied() {
    let stage = Stage::new(&[], &[], |_| None);
    stage.reconcile(owner()).await.unwrap();
    let writes = stage.calls().into_iter().filter(|call| {
        !call.path.ends_with("/status")
            && !call.path.ends_with("/events")
            && call.method != Method::GET
    });
    for call in writes {
        assert_eq!(call.method, Method::POST, "{}", call.path);
        assert!(
            call.query.contains("fieldManager=zimage-operator"),
            "{}",
            call.query
        );
        let owners = &call.body["metadata"]["ownerReferences"];
        assert_eq!(owners[0]["blockOwnerDeletion"], true);
    }
}

#[tokio::test]
async fn what_a_deleted_deployment_left_behind_is_taken_again_by_its_identity() {
    let left = json!({"uid": "left", "resourceVersion": "7",
        "labels": {"app.kubernetes.io/managed-by": "zimage-operator", "app.kubernetes.io/instance": "fox"},
        "managedFields": [{"manager": "zimage-operator", "operation": "Update", "apiVersion": "v1"}]});
    let stage = Stage::new(&[], &[], with_service(service("fox", left)));
    stage.reconcile(owner()).await.unwrap();
    let calls = stage.calls().into_iter();
    let patches: Vec<_> = calls
        .filter(|call| call.path.ends_with("/services/fox") && call.method == Method::PATCH)
        .collect();
    assert_eq!(patches.len(), 2);
    assert_eq!(
        patches[0].body["metadata"]["managedFields"][0]["operation"],
        "Apply"
    );
    assert_eq!(patches[1].body["metadata"]["uid"], "left");
    assert_eq!(
        patches[1].body["metadata"]["ownerReferences"][0]["uid"],
        "1"
    );
}

#[tokio::test]
async fn a_status_is_written_for_this_very_deployment_and_on_the_version_that_was_read() {
    let stage = Stage::new(&[], &[], |_| None);
    let mut known = owner();
    known.metadata.resource_version = Some("41".to_owned());
    stage.reconcile(known).await.unwrap();
    let calls = stage.calls();
    let written = calls.iter().rfind(|call| call.path.ends_with("/status"));
    let metadata = &written.unwrap().body["metadata"];
    assert_eq!(metadata, &json!({"uid": "1", "resourceVersion": "41"}));
}

#[tokio::test]
async fn a_deployment_does_not_inherit_what_was_written_for_one_of_its_name_before_it() {
    let stage = Stage::new(&[], &[], |_| None);
    stage.reconcile(owner()).await.unwrap();
    let mut again = owner();
    again.metadata.uid = Some("2".to_owned());
    assert_eq!(
        stage.context.written.last_status(&again),
        ZImageDeploymentStatus::default()
    );
    assert_ne!(
        stage.context.written.last_status(&owner()),
        ZImageDeploymentStatus::default()
    );
}

#[tokio::test]
async fn a_child_that_something_else_sets_again_and_again_is_told_and_the_others_go_on() {
    let first = Stage::new(&[], &[], |_| None);
    first.reconcile(owner()).await.unwrap();
    let mut children = first.applied();
    for child in &mut children {
        if child["kind"] == "Deployment" && child["metadata"]["name"] == "fox-primary" {
            child["spec"]["replicas"] = json!(7);
        }
    }
    let second = Stage::new(&children, &[], |_| None);
    for _ in 0..5 {
        second.reconcile(owner()).await.unwrap();
    }
    let writes = second.applied().len();
    let error = second.reconcile(owner()).await.unwrap_err();
    assert_eq!(second.applied().len(), writes);
    assert_eq!(error.reason(), zimage_crds::Reason::Contested);
    let message = error.message();
    assert!(
        message.contains("spec.replicas of Deployment fox-primary"),
        "{message}"
    );
}

#[tokio::test]
async fn an_account_that_a_pod_still_uses_stays() {
    let first = Stage::new(&[], &[], |_| None);
    first.reconcile(owner()).await.unwrap();
    let mut children = first.applied();
    let mut old = children[0].clone();
    assert_eq!(old["kind"], "ServiceAccount");
    old["metadata"]["name"] = "fox-gateway".into();
    children.push(old);
    let deletes = async |pods: &[Pod]| {
        let stage = Stage::new(&children, pods, |_| None);
        stage.reconcile(owner()).await.unwrap();
        let calls = stage.calls().into_iter();
        calls.filter(|call| call.method == Method::DELETE).count()
    };
    let mut pod = ready_pod(Component::Gateway);
    pod.spec.get_or_insert_default().service_account_name = Some("fox-gateway".to_owned());
    assert_eq!(deletes(&[pod]).await, 0);
    assert_eq!(deletes(&[ready_pod(Component::Gateway)]).await, 1);
}

/// The API server gives the gateway's account this UID when it is applied.
fn with_account(uid: &'static str) -> impl Fn(&Call) -> Option<(u16, Value)> + Send + Sync {
    move |call| {
        let mut account = call.body.clone();
        let is_account = is_write_of(call, "serviceaccounts")
            && account["metadata"]["name"] == Component::Gateway.account(&owner());
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
        child["kind"] == "ServiceAccount"
            && child["metadata"]["name"] == Component::Gateway.account(&owner())
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
    let mut stuck = ready_pod(Component::Server(Tier::Primary));
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
