//! The command line.

use crate::reconcile::build::{Peers, operator};
use clap::{ArgAction, Parser};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::api::rbac::v1::RoleRef;
use std::net::SocketAddr;

/// Turns ZImageDeployment resources into inference servers and moves traffic between their tiers.
#[derive(Clone, Debug, Parser)]
#[command(name = "zimage-operator", version, about)]
pub struct Args {
    /// Container image of new server tiers whose spec names none. Existing ones keep what they run.
    #[arg(long, env = "ZIMAGE_SERVER_IMAGE", default_value = concat!("zimage-server:", env!("CARGO_PKG_VERSION")))]
    pub server_image: String,
    /// The same for tiers with a GPU: the server with CUDA's libraries.
    #[arg(long, env = "ZIMAGE_SERVER_CUDA_IMAGE", default_value = concat!("zimage-server-cuda:", env!("CARGO_PKG_VERSION")))]
    pub server_cuda_image: String,
    /// Container image of new gateways whose spec names none. Existing ones keep what they run.
    #[arg(long, env = "ZIMAGE_GATEWAY_IMAGE", default_value = concat!("zimage-gateway:", env!("CARGO_PKG_VERSION")))]
    pub gateway_image: String,
    /// Namespace to act in; repeatable. None: all namespaces.
    #[arg(
        long = "watch-namespace",
        env = "ZIMAGE_WATCH_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub watch_namespaces: Vec<String>,
    /// Whether server and gateway pods get NetworkPolicies: servers are reached by their gateway, metrics by the operator.
    #[arg(long, env = "ZIMAGE_NETWORK_POLICIES", default_value_t = true, action = ArgAction::Set)]
    pub network_policies: bool,
    /// Who else may read the pods' metrics: a NetworkPolicyPeer as JSON; repeatable.
    #[arg(long, value_name = "PEER", value_parser = peer)]
    pub metrics_from: Vec<NetworkPolicyPeer>,
    /// Who may send requests to gateways, in the same form; repeatable. None: everyone.
    #[arg(long, value_name = "PEER", value_parser = peer)]
    pub clients_from: Vec<NetworkPolicyPeer>,
    /// The role that each gateway's account is given, ClusterRole/NAME or Role/NAME (of that name in every namespace): reading
    /// ZImageDeployments and EndpointSlices. The operator needs the right to bind it, and neither to hold nor to change it.
    #[arg(long, env = "ZIMAGE_GATEWAY_ROLE", default_value = "ClusterRole/zimage-gateway", value_parser = role)]
    pub gateway_role: RoleRef,
    /// Address of /healthz and /readyz.
    #[arg(long, env = "ZIMAGE_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// Address of /metrics.
    #[arg(long, env = "ZIMAGE_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// This process among the operator's replicas: the holder that the leader lease shows.
    #[arg(
        long,
        env = "POD_NAME",
        default_value = "zimage-operator-outside-the-cluster"
    )]
    pub identity: String,
    /// Namespace of the leader lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of the leader lease. Releases that share a namespace need one each.
    #[arg(long, env = "ZIMAGE_LEASE_NAME", default_value = "zimage-operator")]
    pub lease_name: String,
    /// Level of the log (error, warn, info, debug, trace), or directives such as info,zimage_operator=debug.
    #[arg(long, env = "ZIMAGE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

impl Args {
    /// Who may connect to the pods; `None` without policies.
    pub fn peers(&self) -> Option<Peers> {
        let mut metrics = vec![operator(&self.lease_namespace)];
        metrics.extend(self.metrics_from.iter().cloned());
        let clients = self.clients_from.clone();
        self.network_policies.then_some(Peers { metrics, clients })
    }
}

fn role(text: &str) -> Result<RoleRef, String> {
    match text.split_once('/') {
        Some((kind @ ("ClusterRole" | "Role"), name)) if !name.is_empty() => Ok(RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err("it is ClusterRole/NAME or Role/NAME".to_owned()),
    }
}

fn peer(text: &str) -> Result<NetworkPolicyPeer, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_gateways_role_is_of_a_cluster_or_of_namespaces() {
        let role = |text| role(text).map(|role| (role.kind, role.name));
        let of = |kind: &str| Ok((kind.to_owned(), "a".to_owned()));
        assert_eq!(role("ClusterRole/a"), of("ClusterRole"));
        assert_eq!(role("Role/a"), of("Role"));
        for wrong in ["a", "Role/", "Group/a"] {
            assert!(role(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn namespaces_can_be_repeated() {
        let args = Args::parse_from([
            "zimage-operator",
            "--watch-namespace=a",
            "--watch-namespace=b",
        ]);
        assert_eq!(args.watch_namespaces, ["a", "b"]);
    }

    #[test]
    fn metrics_are_for_the_operator_and_for_those_who_are_named() {
        let monitoring =
            r#"{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}"#;
        let named = format!("--metrics-from={monitoring}");
        let args = Args::parse_from(["zimage-operator", "--lease-namespace=zimage-system", &named]);
        let peers = args.peers().unwrap();
        assert_eq!(peers.metrics[0], operator("zimage-system"));
        let shown = serde_json::to_string(&peers.metrics[1]).unwrap();
        assert_eq!(shown, monitoring);
        let off = Args::parse_from(["zimage-operator", "--network-policies=false"]);
        assert_eq!(off.peers(), None);
        Args::try_parse_from(["zimage-operator", "--metrics-from=monitoring"]).unwrap_err();
    }
}
