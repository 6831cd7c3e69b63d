//! The command line.

use crate::proxy::Bounds;
use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::time::Duration;
use zimage_crds::contract::MAX_BODY_BYTES;
use zimage_edge::{Policy, Resources};

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
    #[arg(long, env = "ZIMAGE_GATEWAY_MAX_BODY_BYTES", default_value_t = MAX_BODY_BYTES)]
    pub max_body_bytes: usize,
    /// Memory for the bodies of all requests at a time, taken as they come; a request that finds no room is answered 503.
    /// A quarter of the memory that the process may use, unless it is given.
    #[arg(long, env = "ZIMAGE_GATEWAY_MAX_BUFFERED_BYTES")]
    pub max_buffered_bytes: Option<usize>,
    /// One client address has one part in so many of that memory while others have some too, room for one body where many
    /// do not fill it, so that one more finds some; all but a quarter while no other has any.
    #[arg(long, env = "ZIMAGE_GATEWAY_CLIENT_PARTS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub client_parts: u16,
    /// Connections of clients at a time. When there are as many, one that is silent is closed in favour of a new one: of the
    /// client that has most of them, the one that has been silent longest. When all of them work, a new one is answered 503,
    /// and probes still as they should be. By the memory and the files that the process may use, unless it is given.
    #[arg(long, env = "ZIMAGE_GATEWAY_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,
    /// Name that Host may have; may be given several times. Without one any is taken.
    #[arg(
        long = "allowed-host",
        env = "ZIMAGE_GATEWAY_ALLOWED_HOSTS",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<String>,
    /// Origin of web pages that may ask, such as https://studio.example.com; may be given several times. Pages of other
    /// origins than the gateway's own are refused.
    #[arg(
        long = "allowed-origin",
        env = "ZIMAGE_GATEWAY_ALLOWED_ORIGINS",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<String>,
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

impl Args {
    /// Bounds of the proxy.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            request_timeout: Duration::from_secs(self.request_timeout_seconds),
            max_body_bytes: self.max_body_bytes,
            max_buffered_bytes: self.buffered_bytes(),
            client_parts: self.client_parts.into(),
        }
    }

    /// Bytes for the bodies of all requests.
    pub fn buffered_bytes(&self) -> usize {
        let given = self.max_buffered_bytes;
        given.unwrap_or_else(|| Resources::read().body_bytes())
    }

    /// Connections of clients.
    pub fn connections(&self) -> usize {
        let given = self.max_connections;
        let given = given.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        given.unwrap_or_else(|| Resources::read().connections())
    }

    /// Hosts and origins that are taken.
    pub fn policy(&self) -> Policy {
        Policy {
            hosts: self.allowed_hosts.clone(),
            origins: self.allowed_origins.clone(),
        }
    }
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
