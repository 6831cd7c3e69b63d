//! What the operator does to objects that are there already, on a real API server: no pods are needed for that.

use crate::with_api;
use anyhow::{Context, Result};
use clap::Parser as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;
use zimage_crds::ZImageDeployment;
use zimage_operator::args::Args;
use zimage_operator::controller::{self, Shared};
use zimage_operator::decide::rollout::DefaultImages;
use zimage_operator::observe::Observer;
use zimage_operator::watches::Scope;
use zimage_tests::manifest::{Change, valid};
use zimage_tests::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the operator in a namespace of its own while `test` lasts.
async fn with_operator(test: impl AsyncFnOnce(&Namespaced) -> Result<()>) -> Result<()> {
    with_api(async |client, namespace| {
        let here = Namespaced { client, namespace };
        here.operated(&[], test).await
    })
    .await
}

struct Namespaced {
    client: Client,
    namespace: String,
}

impl Namespaced {
    /// Runs the operator with these flags while `test` lasts.
    async fn operated(
        &self,
        flags: &[&str],
        test: impl AsyncFnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let client = self.client.clone();
        let scope = Arc::new(Scope::follow(
            &client,
            Some(&self.namespace),
            &TaskTracker::new(),
        ));
        let whole = async || Ok(scope.is_whole().then_some(()));
        wait::until("the lists", PATIENCE, whole).await?;
        let shared = Shared {
            images: DefaultImages {
                server: "server:1".to_owned(),
                server_cuda: "server-cuda:1".to_owned(),
                gateway: "gateway:1".to_owned(),
            },
            peers: None,
            gateway_role: Args::parse_from(["zimage-operator"].iter().chain(flags)).gateway_role,
            recorder: Recorder::new(client.clone(), Reporter::from("zimage-operator")),
            metrics: Arc::default(),
            client: client.clone(),
        };
        let observer = Arc::new(Observer::new(shared.metrics.scrapes()));
        tokio::select! {
            () = controller::run(shared, scope, observer) => anyhow::bail!("the operator ended"),
            outcome = test(self) => outcome,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn apply(&self, manifest: Value) -> Result<()> {
        let name = manifest["metadata"]["name"].as_str().context("a name")?;
        let parameters = PatchParams::apply("test").force();
        let api = self.api::<ZImageDeployment>();
        api.patch(name, &parameters, &Patch::Apply(&manifest))
            .await?;
        Ok(())
    }

    /// Waits until `Accepted` has this reason, and returns its message.
    async fn accepted(&self, name: &str, reason: &str) -> Result<String> {
        let api = self.api::<ZImageDeployment>();
        wait::until(&format!("{name} to be {reason}"), PATIENCE, async || {
            let status = api.get(name).await?.status.unwrap_or_default();
            let mut conditions = status.conditions.into_iter();
            let accepted = conditions.find(|condition| condition.type_ == "Accepted");
            Ok(accepted
                .filter(|it| it.reason == reason)
                .map(|it| it.message))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_with_another_role_for_gateways_binds_them_anew() -> Result<()> {
    with_api(async |client, namespace| {
        let here = Namespaced { client, namespace };
        for role in ["ClusterRole/before", "Role/after"] {
            here.operated(&["--gateway-role", role], async |here| {
                here.apply(valid()).await?;
                here.accepted("fox", "Valid").await?;
                let bindings = here.api::<RoleBinding>();
                wait::until(role, PATIENCE, async || {
                    let all = bindings.list(&ListParams::default()).await?;
                    let refs = all.items.into_iter().map(|binding| binding.role_ref);
                    let mut names = refs.map(|it| format!("{}/{}", it.kind, it.name));
                    Ok(names.find(|name| name == role))
                })
                .await?;
                // Whatever comes after the binding was made, too.
                here.api::<Deployment>().get("fox-gateway").await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_somebody_else_stays_byte_for_byte_and_frees_the_name_when_it_goes()
-> Result<()> {
    with_operator(async |here| {
        let services = here.api::<Service>();
        let theirs: Service = serde_json::from_value(json!({"metadata": {"name": "fox"},
            "spec": {"selector": {"app": "payments"}, "ports": [{"port": 443}]}}))?;
        let theirs = services.create(&PostParams::default(), &theirs).await?;
        here.apply(valid()).await?;
        let message = here.accepted("fox", "NameTaken").await?;
        assert!(message.contains("Service fox"), "{message}");
        assert_eq!(services.get("fox").await?, theirs);
        assert!(
            here.api::<Deployment>()
                .get_opt("fox-primary")
                .await?
                .is_none()
        );

        services.delete("fox", &DeleteParams::default()).await?;
        here.accepted("fox", "Valid").await?;
        assert_ne!(services.get("fox").await?.uid(), theirs.uid());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_younger_of_two_deployments_whose_services_meet_is_refused() -> Result<()> {
    with_operator(async |here| {
        here.apply(valid()).await?;
        here.accepted("fox", "Valid").await?;
        let before = here.api::<Service>().get("fox-primary").await?.spec;
        here.apply(valid().with("metadata.name", json!("fox-primary")))
            .await?;
        let message = here.accepted("fox-primary", "NameTaken").await?;
        assert!(message.contains("older ZImageDeployment fox"), "{message}");
        assert_eq!(here.api::<Service>().get("fox-primary").await?.spec, before);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_is_taken_out_of_the_spec_leaves_a_child_that_was_created() -> Result<()> {
    with_operator(async |here| {
        let selected = valid().with("spec.primary.scheduling.nodeSelector", json!({"a": "b"}));
        here.apply(selected).await?;
        here.accepted("fox", "Valid").await?;
        let deployments = here.api::<Deployment>();
        let selector = async || -> Result<Option<Value>> {
            let deployment = serde_json::to_value(deployments.get("fox-primary").await?)?;
            Ok(Some(
                deployment["spec"]["template"]["spec"]["nodeSelector"].clone(),
            ))
        };
        assert_eq!(selector().await?, Some(json!({"a": "b"})));
        here.apply(valid()).await?;
        wait::until("the selector to go", PATIENCE, async || {
            Ok(selector().await?.filter(Value::is_null))
        })
        .await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_somebody_sets_is_put_back_and_a_container_beside_ours_stays() -> Result<()> {
    with_operator(async |here| {
        here.apply(valid()).await?;
        here.accepted("fox", "Valid").await?;
        let deployments = here.api::<Deployment>();
        let proxy = json!([{"op": "add", "path": "/spec/template/spec/containers/0",
            "value": {"name": "mesh-proxy", "image": "proxy:1"}},
            {"op": "replace", "path": "/spec/template/spec/containers/1/image", "value": "evil:1"}]);
        let patch: Patch<DynamicObject> = Patch::Json(serde_json::from_value(proxy)?);
        deployments.patch("fox-primary", &PatchParams::default(), &patch).await?;
        wait::until("the image to be put back", PATIENCE, async || {
            let deployment = deployments.get("fox-primary").await?;
            let pod = deployment.spec.and_then(|spec| spec.template.spec);
            let containers = pod.context("a pod template")?.containers;
            let image = |name: &str| {
                let mut containers = containers.iter();
                containers.find(|it| it.name == name).and_then(|it| it.image.clone())
            };
            let images = (image("server"), image("mesh-proxy"));
            Ok((images == (Some("server:1".to_owned()), Some("proxy:1".to_owned()))).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_denies_a_child_is_waited_for_and_no_fault_of_the_spec() -> Result<()> {
    with_operator(async |here| {
        let quota: k8s_openapi::api::core::v1::ResourceQuota = serde_json::from_value(
            json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/deployments.apps": "0"}}}),
        )?;
        let quotas = here.api::<k8s_openapi::api::core::v1::ResourceQuota>();
        quotas.create(&PostParams::default(), &quota).await?;
        here.apply(valid()).await?;
        here.accepted("fox", "ApplyFailed").await?;
        quotas.delete("none", &DeleteParams::default()).await?;
        here.accepted("fox", "Valid").await?;
        Ok(())
    })
    .await
}
