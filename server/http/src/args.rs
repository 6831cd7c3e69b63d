//! The flags of a program that serves this interface.

use crate::app::{App, Identity};
use crate::intake::Intake;
use crate::metrics::HttpMetrics;
use crate::serve::{Addresses, Shutdown};
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;
use zimage_core::limits::Limits;
use zimage_core::variant::Variant;
use zimage_edge::Policy;
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
    /// Images of one request at the most.
    #[arg(long, env = "ZIMAGE_MAX_IMAGES", default_value_t = Limits::default().max_images, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_images: u32,
    /// Pixels of an image at the most, from 64x64 on.
    #[arg(long, env = "ZIMAGE_MAX_PIXELS", default_value_t = Limits::default().max_pixels, value_parser = clap::value_parser!(u64).range(64 * 64..=4096 * 4096))]
    pub max_pixels: u64,
    /// Denoising steps of an image at the most.
    #[arg(long, env = "ZIMAGE_MAX_STEPS", default_value_t = Limits::default().max_steps, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_steps: u32,
    /// Cost of one request at the most: images x steps x megapixels (of 2^20 pixels), twice that with guidance. A Turbo
    /// image of 1024x1024 costs 8, a Base image 100; an H100 takes 0.09 to 0.13 s for each.
    #[arg(long, env = "ZIMAGE_MAX_COST", default_value_t = Limits::default().max_cost, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_cost: u32,
    /// Bytes of memory for bodies, images of requests that wait, and answers on their way. None: a quarter of the memory
    /// that the process may have.
    #[arg(long, env = "ZIMAGE_MAX_BUFFERED_BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub max_buffered_bytes: Option<u64>,
    /// Connections of clients at a time. When there are as many, one that is silent is closed in favour of a new one: of the
    /// client that has most of them, the one that has been silent longest. When all of them work, a new one is answered 503,
    /// and probes still as they should be. By the memory and the files that the process may use, unless it is given.
    #[arg(long, env = "ZIMAGE_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,
    /// Name that Host may have; may be given several times. Without one any is taken.
    #[arg(
        long = "allowed-host",
        env = "ZIMAGE_ALLOWED_HOSTS",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<String>,
    /// Origin of web pages that may ask, such as https://studio.example.com; may be given several times. Pages of other
    /// origins than the server's own are refused.
    #[arg(
        long = "allowed-origin",
        env = "ZIMAGE_ALLOWED_ORIGINS",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<String>,
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
        let limits = Limits {
            max_images: self.max_images,
            max_pixels: self.max_pixels,
            max_reference_pixels: self.max_pixels,
            max_steps: self.max_steps,
            max_cost: self.max_cost,
            ..Limits::default()
        };
        let timeout = Duration::from_secs(self.request_timeout_seconds);
        let app = App::new(identity, limits, timeout, metrics).with_intake(self.intake());
        match self.max_buffered_bytes {
            Some(bytes) => app.with_buffered_bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
            None => app,
        }
    }

    fn intake(&self) -> Intake {
        let given = self.max_connections;
        let given = given.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        Intake {
            connections: given.unwrap_or_else(|| Intake::default().connections),
            policy: Policy {
                hosts: self.allowed_hosts.clone(),
                origins: self.allowed_origins.clone(),
            },
        }
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
            ["--max-images", "1"],
            ["--max-pixels", "1048576"],
            ["--max-steps", "50"],
            ["--max-cost", "100"],
            ["--max-buffered-bytes", "1048576"],
        ] {
            assert!(parse(&flags).is_ok(), "{flags:?}");
        }
        for flags in [
            ["--max-batch-size", "0"],
            ["--max-batch-size", "17"],
            ["--max-queue-length", "1025"],
            ["--max-images", "0"],
            ["--max-pixels", "4095"],
            ["--max-steps", "1001"],
            ["--max-cost", "0"],
            ["--max-buffered-bytes", "1"],
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
