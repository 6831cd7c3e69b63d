//! What the chart renders, byte for byte, and that generated files are current.
//!
//! `UPDATE_GOLDEN=1 cargo test --release -p zimage-tests --test golden` writes every generated file anew: the CRD, its copy
//! in the chart, `manifests/install.yaml` and the goldens beside this file.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::env;
use std::fs;
use zimage_crds::ZImageDeployment;
use zimage_tests::commands::helm;
use zimage_tests::documents::{identity, of_kind, parse};
use zimage_tests::repository;

const CHART: &str = "charts/zimage-operator";
const CRD: &str = "crds/yaml/zimagedeployments.yaml";
const CRD_IN_CHART: &str = "charts/zimage-operator/files/zimagedeployments.yaml";

#[track_caller]
fn assert_golden(relative: &str, actual: &str) {
    if env::var_os("UPDATE_GOLDEN").is_some() {
        let path = repository::path(relative);
        fs::create_dir_all(path.parent().expect("a file has a folder"))
            .expect("a folder can be made");
        fs::write(path, actual).expect("a generated file can be written");
    }
    let hint =
        "is not current: look at the difference, then set UPDATE_GOLDEN=1 and run this test again";
    assert!(repository::read(relative) == actual, "{relative} {hint}");
}

/// The chart with value assignments as `--set-json` takes them, in the namespace zimage-system.
async fn render(values: &[&str]) -> anyhow::Result<String> {
    let mut arguments = vec![
        "template",
        "zimage-operator",
        CHART,
        "--namespace",
        "zimage-system",
    ];
    for value in values {
        arguments.extend(["--set-json", value]);
    }
    helm(&arguments).await
}

/// [`render`] with the hardened values.
async fn render_hardened(values: &[&str]) -> anyhow::Result<String> {
    let mut arguments = vec![
        "template",
        "zimage-operator",
        CHART,
        "--namespace",
        "zimage-system",
        "--values",
        "charts/zimage-operator/values-hardened.yaml",
    ];
    for value in values {
        arguments.extend(["--set-json", value]);
    }
    helm(&arguments).await
}

/// Values with every optional part switched on.
const EVERYTHING: &[&str] = &[
    r#"image={"registry":"registry.example:5000/team","tag":"1.2.3","pullPolicy":"Always","pullSecrets":["pull"]}"#,
    r#"serverImage="registry.example:5000/team/other-server:7""#,
    r#"watchNamespaces=["art","press"]"#,
    r#"log.level="info,zimage_operator=debug""#,
    "metrics.serviceMonitor.enabled=true",
    "metrics.podMonitor.enabled=true",
    r#"metrics.podMonitor.labels={"release":"prometheus"}"#,
    "networkPolicy.enabled=true",
    "admissionPolicy.enabled=true",
    r#"admissionPolicy.imagePrefixes=["registry.example:5000/team/"]"#,
    r#"admissionPolicy.priorityClasses=["serving"]"#,
    r#"childNetworkPolicies.metricsFrom=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]"#,
    r#"childNetworkPolicies.clientsFrom=[{"namespaceSelector":{}}]"#,
    r#"serviceAccount.annotations={"example.com/a":"b"}"#,
    r#"nodeSelector={"kubernetes.io/os":"linux"}"#,
    r#"tolerations=[{"key":"infra","operator":"Exists"}]"#,
    r#"affinity={"nodeAffinity":{}}"#,
    r#"priorityClassName="system-cluster-critical""#,
    r#"podAnnotations={"example.com/note":"one"}"#,
    r#"podLabels={"example.com/team":"art"}"#,
];

fn crd() -> String {
    serde_saphyr::to_string(&ZImageDeployment::crd()).expect("a CRD is YAML")
}

#[test]
fn the_crd_is_generated_from_the_types() {
    assert_golden(CRD, &crd());
    assert_golden(CRD_IN_CHART, &crd());
}

#[tokio::test]
async fn the_chart_renders_its_defaults() -> anyhow::Result<()> {
    assert_golden(
        "tests/tests/golden/chart-default.yaml",
        &render(&["crds.install=false"]).await?,
    );
    Ok(())
}

#[tokio::test]
async fn the_chart_renders_everything_switched_on() -> anyhow::Result<()> {
    let values = [EVERYTHING, &["crds.install=false"]].concat();
    assert_golden(
        "tests/tests/golden/chart-everything.yaml",
        &render(&values).await?,
    );
    Ok(())
}

#[tokio::test]
async fn the_hardened_chart_has_no_right_beyond_its_namespaces() -> anyhow::Result<()> {
    let values = [r#"watchNamespaces=["art"]"#, "crds.install=false"];
    let rendered = render_hardened(&values).await?;
    assert_golden("tests/tests/golden/chart-hardened.yaml", &rendered);
    let rendered = parse(&rendered)?;
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        assert!(of_kind(&rendered, kind).is_empty(), "{kind}");
    }
    for kind in ["ValidatingAdmissionPolicy", "NetworkPolicy"] {
        assert_eq!(of_kind(&rendered, kind).len(), 1, "{kind}");
    }
    let error = render_hardened(&[]).await.unwrap_err().to_string();
    assert!(error.contains("watchNamespaces"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_pod_monitor_that_network_policies_keep_out_is_refused() -> anyhow::Result<()> {
    let error = render(&["metrics.podMonitor.enabled=true"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("metricsFrom"), "{error}");
    let off = [
        "metrics.podMonitor.enabled=true",
        "childNetworkPolicies.enabled=false",
    ];
    render(&off).await?;
    Ok(())
}

#[tokio::test]
async fn the_operator_may_change_its_own_lease_alone() -> anyhow::Result<()> {
    let rendered = parse(&render(&[]).await?)?;
    let rules = of_kind(&rendered, "Role")
        .into_iter()
        .flat_map(|role| role["rules"].as_array().into_iter().flatten());
    for rule in rules {
        if rule["verbs"] != json!(["create"]) {
            assert_eq!(rule["resourceNames"], json!(["zimage-operator"]), "{rule}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_may_grant_the_role_for_gateways_alone_and_change_none() -> anyhow::Result<()>
{
    for (values, resource) in [(&[][..], "clusterroles"), (EVERYTHING, "roles")] {
        let rendered = parse(&render(values).await?)?;
        let rules = ["Role", "ClusterRole"]
            .into_iter()
            .flat_map(|kind| of_kind(&rendered, kind));
        let rules = rules.flat_map(|role| role["rules"].as_array().into_iter().flatten());
        let is_about_roles = |rule: &&Value| {
            let resources = rule["resources"].as_array().into_iter().flatten();
            let mut resources = resources.filter_map(Value::as_str);
            resources.any(|it| it == "roles" || it == "clusterroles")
        };
        let granted = json!({
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": [resource],
            "resourceNames": ["zimage-system-zimage-operator-gateway"],
            "verbs": ["bind"],
        });
        for rule in rules.filter(is_about_roles) {
            assert_eq!(*rule, granted);
        }
    }
    Ok(())
}

#[tokio::test]
async fn install_yaml_is_the_rendered_chart_with_its_namespace() -> anyhow::Result<()> {
    the_crd_is_generated_from_the_types();
    let namespace = "\
# Generated from charts/zimage-operator. Changes belong there.
apiVersion: v1
kind: Namespace
metadata:
  name: zimage-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
";
    assert_golden(
        "manifests/install.yaml",
        &format!("{namespace}{}", render(&[]).await?),
    );
    Ok(())
}

#[tokio::test]
async fn the_chart_carries_the_crd_unchanged_and_keeps_it_on_uninstall() -> anyhow::Result<()> {
    let rendered = parse(&render(&[]).await?)?;
    let [in_chart] = of_kind(&rendered, "CustomResourceDefinition")[..] else {
        panic!("one CRD")
    };
    let mut in_chart = in_chart.clone();
    let metadata = in_chart["metadata"].as_object_mut().expect("an object");
    assert_eq!(
        metadata.remove("annotations"),
        Some(json!({"helm.sh/resource-policy": "keep"}))
    );
    metadata.remove("labels");
    let in_chart: CustomResourceDefinition = serde_json::from_value(in_chart)?;
    assert!(
        in_chart == ZImageDeployment::crd(),
        "{CRD_IN_CHART} and the chart's template change the CRD"
    );
    Ok(())
}

#[tokio::test]
async fn without_crds_install_the_chart_has_no_crd() -> anyhow::Result<()> {
    let rendered = parse(&render(&["crds.install=false"]).await?)?;
    assert!(of_kind(&rendered, "CustomResourceDefinition").is_empty());
    Ok(())
}

#[tokio::test]
async fn watched_namespaces_take_the_place_of_cluster_wide_rights() -> anyhow::Result<()> {
    let rendered = parse(&render(EVERYTHING).await?)?;
    assert!(of_kind(&rendered, "ClusterRoleBinding").is_empty());
    let places = |kind| -> Vec<&Value> {
        of_kind(&rendered, kind)
            .into_iter()
            .map(|role| &role["metadata"]["namespace"])
            .collect()
    };
    let gateways = of_kind(&rendered, "Role").into_iter().filter(|role| {
        let name = role["metadata"]["name"].as_str();
        name.is_some_and(|name| name.ends_with("-gateway"))
    });
    // Those for gateways are bound by the operator.
    let bound = places("Role").len() - gateways.count();
    assert_eq!(bound, places("RoleBinding").len());
    for namespace in ["art", "press", "zimage-system"] {
        assert!(places("Role").contains(&&json!(namespace)), "{namespace}");
    }
    Ok(())
}

#[tokio::test]
async fn no_role_has_a_wildcard_or_reads_secrets() -> anyhow::Result<()> {
    for values in [&[][..], EVERYTHING] {
        for object in parse(&render(values).await?)? {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let text = rule.to_string();
                assert!(
                    !text.contains("\"*\"") && !text.contains("secrets"),
                    "{}: {text}",
                    identity(&object)
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_pod_meets_the_restricted_standard() -> anyhow::Result<()> {
    let rendered = parse(&render(&[]).await?)?;
    let [deployment] = of_kind(&rendered, "Deployment")[..] else {
        panic!("one Deployment")
    };
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(
        *container,
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        })
    );
    Ok(())
}

#[tokio::test]
async fn a_single_replica_has_no_disruption_budget() -> anyhow::Result<()> {
    let rendered = parse(&render(&["replicas=1"]).await?)?;
    assert!(of_kind(&rendered, "PodDisruptionBudget").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_misspelt_value_is_refused_by_name() -> anyhow::Result<()> {
    for (value, name) in [
        ("serverimage=\"x\"", "serverimage"),
        ("image={\"repo\":\"x\"}", "repo"),
        ("image.pullPolicy=\"Sometimes\"", "pullPolicy"),
        ("watchNamespaces=[\"Not_A_Name\"]", "watchNamespaces"),
        ("replicas=\"two\"", "replicas"),
        (
            "admissionPolicy.imagePrefixes=[\"registry.example.com\"]",
            "imagePrefixes",
        ),
    ] {
        let error = render(&[value]).await.unwrap_err().to_string();
        assert!(error.contains(name), "{value}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn helm_lint_finds_nothing() -> anyhow::Result<()> {
    helm(&["lint", "--strict", CHART]).await?;
    Ok(())
}
