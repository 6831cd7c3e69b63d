//! `bench`: what each part of a request costs on this machine.

mod http;
mod parts;
mod table;

use crate::args::Bench;
use crate::device;
use crate::failure::Failure;
use crate::nvml::Gpus;
use http::Server;
use parts::measure;
use std::time::Instant;

/// Measures and prints a table, or JSON for machines.
#[expect(clippy::print_stdout, reason = "the table is this command's output")]
pub(crate) fn run(args: &Bench) -> Result<(), Failure> {
    let chosen = device::choose(&args.model, &Gpus::find())?;
    let began = Instant::now();
    let mut executor = device::load(&args.model, chosen)?;
    let start_up = began.elapsed().as_secs_f64();
    let mut measured = Vec::new();
    for &size in &args.sizes {
        measured.push(measure(&mut *executor, args, size)?);
    }
    let server = Server::start(executor)?;
    for parts in &mut measured {
        parts.http = server.measure(args, (parts.width, parts.height))?;
    }
    if args.json {
        println!("{:#}", table::json(start_up, &measured));
    } else {
        println!("{}", table::text(start_up, &measured));
    }
    Ok(())
}
