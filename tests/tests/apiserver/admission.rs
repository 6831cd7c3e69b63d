//! The chart's admission policy on a real API server: what a ZImageDeployment may hand on to its pods.

use crate::{create, with_api};
use anyhow::Result;
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::time::Duration;
use zimage_tests::commands::{helm, kubectl};
use zimage_tests::documents::{identity, parse};
use zimage_tests::manifest::{Change, valid};
use zimage_tests::wait;

/// The chart with its hardened values, for one namespace that may use one registry and one Secret.
async fn hardened(namespace: &str) -> Result<Vec<Value>> {
    let watched = format!("watchNamespaces={}", json!([namespace]));
    let rendered = helm(&[
        "template",
        "zimage-operator",
        "charts/zimage-operator",
        "--namespace",
        namespace,
        "--values",
        "charts/zimage-operator/values-hardened.yaml",
        "--set-json",
        &watched,
        "--set-json",
        r#"admissionPolicy.imagePrefixes=["registry.example.com/team/"]"#,
        "--set-json",
        r#"admissionPolicy.secrets=["allowed"]"#,
        "--set-json",
        r#"admissionPolicy.claims=["models"]"#,
        "--set",
        "crds.install=false",
    ])
    .await?;
    parse(&rendered)
}

/// Everything that the hardened chart makes is applied; the policy is taken away again.
async fn with_policy(test: impl AsyncFnOnce(&Client, &str) -> Result<()>) -> Result<()> {
    with_api(async |client, namespace| {
        let objects = hardened(&namespace).await?;
        let text =
            serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
        kubectl(&["apply", "--server-side", "-f", "-"], &text).await?;
        let outcome = async {
            in_force(&client, &namespace).await?;
            test(&client, &namespace).await
        }
        .await;
        for object in &objects {
            if identity(object).starts_with("ValidatingAdmissionPolicy") {
                let text = object.to_string();
                kubectl(&["delete", "--ignore-not-found", "-f", "-"], &text).await?;
            }
        }
        outcome
    })
    .await
}

/// The API server takes a policy up within some seconds.
async fn in_force(client: &Client, namespace: &str) -> Result<()> {
    let refused = valid()
        .with("metadata.name", json!("probe"))
        .with("spec.primary.image", json!("elsewhere/server:1"));
    let path = format!("/apis/zimage.dev/v1alpha1/namespaces/{namespace}/zimagedeployments/probe");
    wait::until(
        "the policy",
        Duration::from_secs(60),
        async || match create(client, namespace, &refused).await {
            Err(error) if error.to_string().contains("image must be left out") => Ok(Some(())),
            Err(error) => Err(error),
            Ok(_) => {
                let delete = http::Request::delete(&path).body(Vec::new())?;
                client.request::<DynamicObject>(delete).await?;
                Ok(None)
            }
        },
    )
    .await
}

fn env(variable: Value) -> Value {
    valid().with("spec.primary.env", json!([variable]))
}

fn from_secret(name: &str) -> Value {
    let source = json!({"secretKeyRef": {"name": name, "key": "token"}});
    env(json!({"name": "RUST_LOG", "valueFrom": source}))
}

#[tokio::test]
async fn what_is_not_listed_does_not_pass_through_to_pods() -> Result<()> {
    let scheduling = |part: &str, key: &str, value: Value| {
        valid().with(&format!("spec.{part}.scheduling.{key}"), value)
    };
    let toleration = |fields: Value| scheduling("primary", "tolerations", json!([fields]));
    let claims = json!({"claims": [{"name": "device"}]});
    let cases = [
        (
            valid().with(
                "spec.fallback.image",
                json!("registry.example.com.evil.org/team/x:1"),
            ),
            "image",
        ),
        (
            valid().with("spec.gateway.image", json!("gateway:1")),
            "image",
        ),
        (
            env(json!({"name": "LD_PRELOAD", "value": "/models/x.so"})),
            "env",
        ),
        (
            env(json!({"name": "ZIMAGE_LISTEN", "value": "0.0.0.0:1"})),
            "env",
        ),
        (from_secret("database"), "Secrets"),
        (
            env(
                json!({"name": "RUST_LOG", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}),
            ),
            "ConfigMaps",
        ),
        (
            env(
                json!({"name": "RUST_LOG", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}),
            ),
            "Secrets and ConfigMaps alone",
        ),
        (
            scheduling(
                "gateway",
                "priorityClassName",
                json!("system-node-critical"),
            ),
            "priorityClassName",
        ),
        (
            scheduling("fallback", "runtimeClassName", json!("privileged")),
            "runtimeClassName",
        ),
        (
            scheduling("primary", "imagePullSecrets", json!([{"name": "admin"}])),
            "imagePullSecrets",
        ),
        (toleration(json!({"operator": "Exists"})), "tolerations"),
        (
            toleration(
                json!({"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}),
            ),
            "tolerations",
        ),
        (
            valid().with("spec.primary.resources", claims.clone()),
            "claims",
        ),
        (valid().with("spec.gateway.resources", claims), "claims"),
        (
            valid().with(
                "spec.primary.resources",
                json!({"limits": {"example.com/fuse": "1"}}),
            ),
            "devices",
        ),
        (
            valid().with(
                "spec.gateway.resources",
                json!({"requests": {"example.com/fuse": "1"}, "limits": {"example.com/fuse": "1"}}),
            ),
            "devices",
        ),
        (
            valid().with("spec.primary.device", json!("Cuda")).with(
                "spec.primary.gpu",
                json!({"count": 1, "resourceName": "example.com/fuse"}),
            ),
            "devices",
        ),
        (
            scheduling(
                "primary",
                "nodeSelector",
                json!({"node-role.kubernetes.io/control-plane": ""}),
            ),
            "nodeSelector",
        ),
        (
            scheduling("gateway", "affinity", json!({"nodeAffinity": {}})),
            "affinity",
        ),
        (
            valid().with(
                "spec.fallback.model.source.persistentVolumeClaim.claimName",
                json!("others"),
            ),
            "claims",
        ),
    ];
    with_policy(async |client, namespace| {
        for (manifest, word) in cases {
            let refused = create(client, namespace, &manifest).await;
            let error = match refused {
                Err(error) => format!("{error:#}"),
                Ok(_) => panic!("accepted: {manifest}"),
            };
            assert!(error.contains("denied request"), "{error}");
            assert!(error.contains(word), "no {word:?} in {error}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_listed_passes_and_so_does_a_short_manifest() -> Result<()> {
    let everything = from_secret("allowed")
        .with("metadata.name", json!("full"))
        .with(
            "spec.primary.image",
            json!("registry.example.com/team/server:1"),
        )
        .with(
            "spec.gateway.image",
            json!("registry.example.com/team/gateway:1"),
        )
        .with(
            "spec.primary.resources",
            json!({"limits": {"memory": "1Gi"}}),
        )
        .with("spec.primary.scheduling.runtimeClassName", json!("nvidia"))
        .with(
            "spec.primary.scheduling.nodeSelector",
            json!({"nvidia.com/gpu.product": "NVIDIA-H800"}),
        )
        .with(
            "spec.primary.scheduling.tolerations",
            json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]),
        );
    with_policy(async |client, namespace| {
        create(client, namespace, &valid()).await?;
        let alone = valid()
            .without("spec.fallback")
            .with("metadata.name", json!("alone"));
        create(client, namespace, &alone).await?;
        create(client, namespace, &everything).await?;
        Ok(())
    })
    .await
}
