//! `bench`: what each part of a request costs on this machine.

mod http;
mod parts;
mod several;
mod table;
mod work;

use crate::args::Bench;
use crate::device::{self, Chosen};
use crate::failure::Failure;
use crate::files;
use http::Server;
use parts::{Parts, measure};
use std::time::Instant;
use work::Work;
use zimage_checkpoint::config::TransformerConfig;
use zimage_cuda::Ceilings;
use zimage_nvml::Gpus;

/// All that is printed.
struct Measured {
    /// Seconds until the first request could be taken.
    start_up: f64,
    sizes: Vec<Parts>,
    /// Bytes of the GPU's memory in use for the size that needs the most.
    memory: Option<u64>,
    /// Of a GPU.
    ceilings: Option<Ceilings>,
    transformer: TransformerConfig,
}

impl Measured {
    /// The share of a step that its products and attention would take at the ceilings.
    fn share(&self, parts: &Parts) -> Option<f64> {
        let size = (parts.width, parts.height);
        let work = Work::of(&self.transformer, size, parts.tokens as usize);
        Some(work.share(self.ceilings?, parts.step.median()))
    }
}

/// Measures and prints tables, or JSON for machines.
#[expect(clippy::print_stdout, reason = "the table is this command's output")]
pub(crate) fn run(args: &Bench) -> Result<(), Failure> {
    let began = Instant::now();
    let gpus = Gpus::find();
    let chosen = device::choose(&args.model, &gpus)?;
    let transformer = files::open(&args.model.files)?.transformer().clone();
    let loaded = device::load_all(&args.model, chosen, &gpus, Some(args.gpus.into()))?;
    let mut executors = loaded.executors;
    let start_up = began.elapsed().as_secs_f64();
    let mut sizes = Vec::new();
    for &size in &args.sizes {
        tracing::info!(width = size.0, height = size.1, "measuring");
        let Some(first) = executors.first_mut() else {
            return Err(Failure::Device("no device was loaded".to_owned()));
        };
        let mut parts = measure(&mut **first, args, &gpus, size)?;
        if executors.len() > 1 {
            parts.several = several::measure(&mut executors, args, size)?;
        }
        sizes.push(parts);
    }
    let memory = sizes.iter().filter_map(|parts| parts.memory).max();
    let memory = memory.filter(|_| chosen == Chosen::Cuda);
    let ceilings = device::ceilings(&args.model, chosen)?;
    let devices = executors.len();
    let server = Server::start(executors)?;
    for parts in &mut sizes {
        tracing::info!(
            width = parts.width,
            height = parts.height,
            "measuring over HTTP"
        );
        let size = (parts.width, parts.height);
        parts.http = server.measure(args, size)?;
        if devices > 1 {
            parts.several_http = Some(server.throughput(args, size, devices)?);
        }
    }
    let measured = Measured {
        start_up,
        sizes,
        memory,
        ceilings,
        transformer,
    };
    if args.json {
        println!("{:#}", table::json(&measured));
    } else {
        println!("{}", table::text(&measured));
    }
    Ok(())
}
