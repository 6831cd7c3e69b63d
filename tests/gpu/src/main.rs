//! The CUDA engine on a real GPU: one program for a machine without cargo.
//!
//! Without a GPU every test is skipped, and the program says why. `--help` lists libtest's flags. `--figures` prints what
//! single operations take, `--formats` what products take in each format of their operands, `--chain CACHE` what operations
//! take in a block; `--latents MODEL FOLDER` writes what tests/bench/truth.py compares, and `--memory MODEL REQUESTS` shows
//! whether requests of mixed sizes give back what they took.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program's output is its result"
)]

mod block;
mod chain;
mod errors;
mod figures;
mod formats;
mod hopper;
mod integers;
mod latents;
mod memory;
mod model;
mod operations;
mod oracle;
mod precisions;
mod several;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zimage_cuda::{Compute, GpuOptions};

/// What a test says when it fails.
type Outcome = Result<(), Failed>;

/// A test of single operations.
type OperationTest = fn(&Compute) -> Outcome;

/// A test of whole models, which open the GPU themselves.
type ModelTest = fn() -> Outcome;

/// Prints figures for the sizes of a 1024x1024 and a 512x512 image.
fn for_both_sizes(cache: Option<&str>, print: fn(&Compute, usize) -> Outcome) -> Outcome {
    let compute = Compute::open(&GpuOptions {
        cache: cache.map(PathBuf::from),
        ..GpuOptions::default()
    })?;
    println!("{}", compute.gpu.properties());
    let mut sizes = [4160, 1088].iter();
    sizes.try_for_each(|&tokens| print(&compute, tokens))
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--figures"] => return ended(for_both_sizes(None, figures::print)),
        ["--formats"] => return ended(for_both_sizes(None, formats::print)),
        ["--chain", cache] => return ended(for_both_sizes(Some(cache), chain::print)),
        ["--latents", model, folder] => {
            return ended(latents::write(Path::new(model), Path::new(folder)));
        }
        ["--memory", model, requests] => {
            let mixed = |count| memory::mixed(Path::new(model), count);
            return ended(requests.parse().map_err(Failed::from).and_then(mixed));
        }
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    // One GPU, and figures of its memory: one test at a time.
    arguments.test_threads = Some(1);
    // Kernels are compiled once.
    let cache = tempfile::tempdir().ok();
    let options = GpuOptions {
        cache: cache.as_ref().map(|folder| folder.path().to_owned()),
        ..GpuOptions::default()
    };
    let (skipped, hopper) = match Compute::open(&options) {
        Ok(compute) => {
            eprintln!("{}", compute.gpu.properties());
            (false, zimage_cuda::ops::hopper::available(&compute.gpu))
        }
        Err(error) => {
            eprintln!("SKIPPED: every test, because {error}");
            (true, false)
        }
    };
    let several = hopper && zimage_cuda::uuids().is_ok_and(|uuids| uuids.len() > 1);
    if !skipped && !several {
        eprintln!("SKIPPED: what is of several Hopper GPUs, because there are none");
    }
    if !skipped && !hopper {
        eprintln!("SKIPPED: what is Hopper's own, because this GPU is none");
    }
    let operation = |&(name, test): &(&str, OperationTest)| {
        let options = options.clone();
        Trial::test(name, move || test(&Compute::open(&options)?))
    };
    let model = |&(name, test): &(&str, ModelTest)| Trial::test(name, test);
    let hoppers = hopper::ALL.iter().map(operation);
    let hoppers = hoppers.chain(precisions::ALL.iter().map(model));
    let hoppers = hoppers.map(|test| test.with_ignored_flag(!hopper));
    let severals = several::ALL.iter().map(model);
    let severals = severals.map(|test| test.with_ignored_flag(!several));
    let operations = operations::ALL.iter().map(operation);
    let models = model::ALL.iter().map(model);
    let tests = operations
        .chain(models)
        .map(|test| test.with_ignored_flag(skipped))
        .chain(hoppers)
        .chain(severals)
        .collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    println!(
        "{} passed, {} failed, {} skipped",
        conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
    );
    conclusion.exit_code()
}
