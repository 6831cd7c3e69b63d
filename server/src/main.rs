//! The inference server and its tools, on one command line.
//!
//! ```text
//! serve       checkpoint ─▶ executor ─▶ engine ─▶ HTTP
//! generate    checkpoint ─▶ executor ─▶ a file
//! verify      checks a checkpoint, and makes an image of it when asked to
//! convert     writes a checkpoint again in bfloat16
//! make-model  writes a checkpoint of random weights
//! bench       executor ─▶ a table
//! tune        executor ─▶ a table of algorithms
//! ```
#![forbid(unsafe_code)]

mod args;
mod bench;
mod convert;
mod cuda_figures;
mod device;
mod failure;
mod files;
mod generate;
mod lora_file;
mod make_model;
mod progress;
mod proof;
mod serve;
mod tune;
mod verify;

use args::{Command, Program};
use clap::Parser;
use std::hint::black_box;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// As large as glibc lets the block be that [`keep_freed_memory`] frees.
const LARGE: usize = 31 << 20;

fn main() -> ExitCode {
    keep_freed_memory();
    let program = Program::parse();
    start_log(program.log_format);
    let outcome = match program.command {
        Command::Serve(args) => serve::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::MakeModel(args) => make_model::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Has the allocator use the memory of one image again for the next. glibc gives a large block back when it is freed and
/// takes the next one page by page, which costs milliseconds an image; when a block is freed that was larger than the
/// limit for that, it raises the limit to the block's size (mallopt(3), `M_MMAP_THRESHOLD`).
fn keep_freed_memory() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}

fn start_log(format: args::LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        args::LogFormat::Json => log.json().flatten_event(true).init(),
        args::LogFormat::Text => log.init(),
    }
}
