//! The command line.

use clap::{Parser, ValueEnum};
use std::net::SocketAddr;

/// Sends requests to the tiers of one ZImageDeployment.
#[derive(Clone, Debug, Parser)]
#[command(name = "zimage-gateway", version, about)]
pub struct Args {
    /// Namespace of the ZImageDeployment.
    #[arg(long, env = "ZIMAGE_GATEWAY_NAMESPACE")]
    pub namespace: String,
    /// Name of the ZImageDeployment.
    #[arg(long, env = "ZIMAGE_GATEWAY_NAME")]
    pub name: String,
    /// Address of the API and of the probes.
    #[arg(long, env = "ZIMAGE_GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Address of /metrics.
    #[arg(
        long,
        env = "ZIMAGE_GATEWAY_METRICS_LISTEN",
        default_value = "127.0.0.1:9090"
    )]
    pub metrics_listen: SocketAddr,
    /// Seconds that one request may take, with all its attempts.
    #[arg(
        long,
        env = "ZIMAGE_GATEWAY_REQUEST_TIMEOUT_SECONDS",
        default_value_t = 900
    )]
    pub request_timeout_seconds: u64,
    /// Largest request body.
    #[arg(long, env = "ZIMAGE_GATEWAY_MAX_BODY_BYTES", default_value_t = 32 << 20)]
    pub max_body_bytes: usize,
    /// Memory for the bodies of all requests at a time; a request that finds no room is answered 503.
    #[arg(long, env = "ZIMAGE_GATEWAY_MAX_BUFFERED_BYTES", default_value_t = 128 << 20)]
    pub max_buffered_bytes: usize,
    /// Seconds after SIGTERM for which requests are still taken, so that proxies learn that the gateway leaves.
    #[arg(long, env = "ZIMAGE_GATEWAY_LAME_DUCK_SECONDS", default_value_t = 5)]
    pub lame_duck_seconds: u64,
    /// Seconds after that which running requests get.
    #[arg(
        long,
        env = "ZIMAGE_GATEWAY_DRAIN_TIMEOUT_SECONDS",
        default_value_t = 900
    )]
    pub drain_timeout_seconds: u64,
    /// Form of the log.
    #[arg(long, env = "ZIMAGE_GATEWAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
