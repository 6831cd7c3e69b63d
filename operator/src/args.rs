//! The command line.

use clap::Parser;
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
    /// Level of the log (error, warn, info, debug, trace), or directives such as info,zimage_operator=debug.
    #[arg(long, env = "ZIMAGE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Images of parts whose spec names none.
#[derive(Clone, Debug)]
pub struct DefaultImages {
    /// Server of a tier on the CPU.
    pub server: String,
    /// Server of a tier with a GPU.
    pub server_cuda: String,
    /// Gateway.
    pub gateway: String,
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
    fn namespaces_can_be_repeated() {
        let args = Args::parse_from([
            "zimage-operator",
            "--watch-namespace=a",
            "--watch-namespace=b",
        ]);
        assert_eq!(args.watch_namespaces, ["a", "b"]);
    }
}
