//! What `kubectl` and autoscalers see of an object.

use crate::{create, with_api};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use zimage_crds::ZImageDeployment;
use zimage_tests::commands::kubectl;
use zimage_tests::manifest::valid;

fn status(fields: Value) -> Patch<Value> {
    Patch::Apply(
        json!({"apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment", "status": fields}),
    )
}

fn condition(kind: &str) -> Value {
    let time = "2026-01-01T00:00:00Z";
    json!({"type": kind, "status": "True", "reason": "Available", "message": "", "lastTransitionTime": time})
}

#[tokio::test]
async fn kubectl_get_shows_readiness_tiers_and_split() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid()).await?;
        let tier =
            |ready| json!({"replicas": 2, "readyReplicas": 2, "ready": ready, "model": "z-image"});
        let shown = status(json!({
            "primary": tier("2/2"),
            "fallback": tier("1/2"),
            "traffic": {
                "weights": {"primary": 90, "fallback": 10},
                "split": "90/10",
                "state": "Normal",
                "reason": "WithinCapacity",
                "since": "2026-01-01T00:00:00Z",
            },
            "conditions": [condition("Ready")],
        }));
        let api = Api::<ZImageDeployment>::namespaced(client, &namespace);
        api.patch_status("fox", &PatchParams::apply("test"), &shown)
            .await?;
        let table = kubectl(&["get", "zimg", "--namespace", &namespace], "").await?;
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows[0],
            [
                "NAME", "READY", "REASON", "PRIMARY", "FALLBACK", "SPLIT", "AGE"
            ]
        );
        assert_eq!(
            rows[1][..6],
            ["fox", "True", "Available", "2/2", "1/2", "90/10"]
        );
        let wide = ["get", "zimg", "--output=wide", "--namespace", &namespace];
        let table = kubectl(&wide, "").await?;
        for column in ["STATE", "MODEL", "GPU", "PAUSED", "MESSAGE"] {
            assert!(table.contains(column), "no {column} in {table}");
        }
        assert!(
            table.contains("Normal") && table.contains("z-image"),
            "{table}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubectl_get_all_and_explain_know_the_kind() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid()).await?;
        // kubectl remembers an API server's kinds for hours; this call makes it ask again.
        kubectl(&["api-resources", "--api-group=zimage.dev"], "").await?;
        let all = kubectl(&["get", "all", "--namespace", &namespace], "").await?;
        assert!(all.contains("zimagedeployment.zimage.dev/fox"), "{all}");
        let field = "zimg.spec.traffic.shift.windowSeconds";
        let explained = kubectl(&["explain", field], "").await?;
        assert!(explained.contains("default 30"), "{explained}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_scale_subresource_is_the_primary_tier() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid()).await?;
        let api = Api::<ZImageDeployment>::namespaced(client, &namespace);
        let seen = status(json!({"replicas": 1, "selector": "zimage.dev/tier=primary"}));
        api.patch_status("fox", &PatchParams::apply("test"), &seen)
            .await?;
        let scale = api.get_scale("fox").await?;
        assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(1));
        assert_eq!(
            scale.status.and_then(|status| status.selector).as_deref(),
            Some("zimage.dev/tier=primary")
        );

        kubectl(
            &[
                "scale",
                "zimg/fox",
                "--replicas=3",
                "--namespace",
                &namespace,
            ],
            "",
        )
        .await?;
        assert_eq!(api.get("fox").await?.spec.primary.replicas, 3);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_writers_of_conditions_do_not_meet() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid()).await?;
        let api = Api::<ZImageDeployment>::namespaced(client, &namespace);
        for (writer, kind) in [("one", "Ready"), ("other", "Shifted")] {
            let conditions = status(json!({"conditions": [condition(kind)]}));
            api.patch_status("fox", &PatchParams::apply(writer), &conditions)
                .await?;
        }
        let stored = api.get("fox").await?.status.unwrap_or_default();
        let kinds: Vec<_> = stored
            .conditions
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(kinds, ["Ready", "Shifted"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn status_is_changed_only_through_its_subresource() -> anyhow::Result<()> {
    with_api(async |client, namespace| {
        create(&client, &namespace, &valid()).await?;
        let api = Api::<ZImageDeployment>::namespaced(client, &namespace);
        let generation = api.get("fox").await?.metadata.generation;
        api.patch_status(
            "fox",
            &PatchParams::apply("test"),
            &status(json!({"replicas": 7})),
        )
        .await?;
        let stored = api.get("fox").await?;
        assert_eq!(stored.metadata.generation, generation);
        assert_eq!(stored.status.map(|status| status.replicas), Some(7));
        Ok(())
    })
    .await
}
