//! The flags of a program that serves this interface.

use crate::app::{App, Identity};
use crate::metrics::HttpMetrics;
use crate::serve::{Addresses, Shutdown};
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;
use zimage_core::limits::Limits;
use zimage_core::variant::Variant;
use zimage_engine::EngineOptions;

/// Who the server is, where it listens, what it takes.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The model's name, z-image-turbo or z-image: decides the defaults for steps and guidance.
    #[arg(long, env = "ZIMAGE_MODEL_NAME", default_value = "z-image-turbo", value_parser = Variant::from_model_name)]
    pub model_name: Variant,
    /// Further name by which requests may ask for the model.
    #[arg(long, env = "ZIMAGE_ALIAS")]
    pub alias: Option<String>,
    /// Tier that answers tell in the header x-zimage-tier, such as primary or fallback.
    #[arg(long, env = "ZIMAGE_TIER")]
    pub tier: Option<String>,
    /// Address of the API and of the probes.
    #[arg(long, env = "ZIMAGE_LISTEN", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Address of /metrics.
    #[arg(long, env = "ZIMAGE_METRICS_LISTEN", default_value = "127.0.0.1:9090")]
    pub metrics_listen: SocketAddr,
    /// Images that take their steps in turn at the most.
    #[arg(long, env = "ZIMAGE_MAX_BATCH_SIZE", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub max_batch_size: u16,
    /// Images that wait at the most; more are answered 429.
    #[arg(long, env = "ZIMAGE_MAX_QUEUE_LENGTH", default_value_t = 16, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub max_queue_length: u16,
    /// Seconds that an image may have to wait for the device, by what the last steps took; more are answered 429.
    #[arg(long, env = "ZIMAGE_MAX_QUEUE_SECONDS", default_value_t = 300)]
    pub max_queue_seconds: u64,
    /// Seconds that a call of the device may take at least. After that, or twenty times what it usually takes, the server
    /// is not ready; after three times that it ends.
    #[arg(long, env = "ZIMAGE_DEVICE_PATIENCE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub device_patience_seconds: u64,
    /// Seconds that one request may take, its time in the queue included.
    #[arg(long, env = "ZIMAGE_REQUEST_TIMEOUT_SECONDS", default_value_t = 7200)]
    pub request_timeout_seconds: u64,
    /// Seconds after SIGTERM for which requests are still taken, so that gateways learn that the server leaves.
    #[arg(long, env = "ZIMAGE_LAME_DUCK_SECONDS", default_value_t = 5)]
    pub lame_duck_seconds: u64,
    /// Seconds after that which running requests get.
    #[arg(long, env = "ZIMAGE_DRAIN_TIMEOUT_SECONDS", default_value_t = 120)]
    pub drain_timeout_seconds: u64,
}

impl ServeArgs {
    /// A server that still loads its model.
    pub fn app(&self, metrics: HttpMetrics) -> App {
        let identity = Identity {
            variant: self.model_name,
            alias: self.alias.clone(),
            tier: self.tier.clone(),
        };
        let timeout = Duration::from_secs(self.request_timeout_seconds);
        App::new(identity, Limits::default(), timeout, metrics)
    }

    /// Bounds of the engine.
    pub fn engine(&self) -> EngineOptions {
        EngineOptions {
            max_batch_size: usize::from(self.max_batch_size),
            max_queue_length: usize::from(self.max_queue_length),
            max_queue_time: Some(Duration::from_secs(self.max_queue_seconds)),
            patience: Duration::from_secs(self.device_patience_seconds),
        }
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            api: self.listen,
            metrics: self.metrics_listen,
        }
    }

    /// How the server ends.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown {
            lame_duck: Duration::from_secs(self.lame_duck_seconds),
            drain: Duration::from_secs(self.drain_timeout_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(flags: &[&str]) -> Result<ServeArgs, String> {
        let program = Program::try_parse_from([&["serve"], flags].concat());
        program
            .map(|program| program.serve)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_only_this_machine_can_ask() {
        let args = parse(&[]).unwrap();
        assert!(args.listen.ip().is_loopback() && args.metrics_listen.ip().is_loopback());
    }

    #[test]
    fn bounds_are_those_of_the_deployments_spec() {
        for flags in [
            ["--max-batch-size", "16"],
            ["--max-queue-length", "0"],
            ["--max-queue-length", "1024"],
            ["--drain-timeout-seconds", "3600"],
        ] {
            assert!(parse(&flags).is_ok(), "{flags:?}");
        }
        for flags in [
            ["--max-batch-size", "0"],
            ["--max-batch-size", "17"],
            ["--max-queue-length", "1025"],
        ] {
            assert!(parse(&flags).unwrap_err().contains(flags[0]), "{flags:?}");
        }
    }

    #[test]
    fn an_unknown_model_is_refused_with_those_that_there_are() {
        let error = parse(&["--model-name", "sdxl"]).unwrap_err();
        assert!(error.contains("z-image-turbo and z-image"), "{error}");
    }
}
