//! NetworkPolicies: who may connect to the pods. The kubelet's probes come from the node, which policies let through.

use crate::component::Component;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use zimage_crds::ZImageDeployment;

/// Label that every namespace has; its value is the namespace's name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Label and value of the operator's pods, as the chart sets them.
const OPERATOR: (&str, &str) = ("app.kubernetes.io/name", "zimage-operator");

/// Who may connect, besides a gateway to its own servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Peers {
    /// Readers of metrics: the operator and those that were named to it.
    pub metrics: Vec<NetworkPolicyPeer>,
    /// Clients of gateways. Empty: everyone.
    pub clients: Vec<NetworkPolicyPeer>,
}

/// The operator's pods in its namespace.
pub fn operator(namespace: &str) -> NetworkPolicyPeer {
    let labelled = |key: &str, value: &str| LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    };
    NetworkPolicyPeer {
        namespace_selector: Some(labelled(NAMESPACE_NAME, namespace)),
        pod_selector: Some(labelled(OPERATOR.0, OPERATOR.1)),
        ip_block: None,
    }
}

/// The policy of a component's pods.
pub(super) fn network_policy(
    owner: &ZImageDeployment,
    component: Component,
    peers: &Peers,
) -> NetworkPolicy {
    let clients = match component {
        Component::Server(_) => vec![NetworkPolicyPeer {
            pod_selector: Some(Component::Gateway.selector(owner)),
            ..NetworkPolicyPeer::default()
        }],
        Component::Gateway => peers.clients.clone(),
    };
    NetworkPolicy {
        metadata: component.metadata(owner),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(component.selector(owner)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                rule("http", clients),
                rule("metrics", peers.metrics.clone()),
            ]),
            egress: None,
        }),
    }
}

/// Connections to a named port of the container; an empty list of peers is everyone.
fn rule(port: &str, from: Vec<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: (!from.is_empty()).then_some(from),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::String(port.to_owned())),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
    }
}
