//! The CUDA engine on a real GPU: one program for a machine without cargo.
//!
//! Without a GPU every test is skipped, and the program says why. `--help` lists libtest's flags; `--figures` prints what
//! single operations take.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program's output is its result"
)]

mod figures;
mod model;
mod operations;
mod oracle;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use zimage_cuda::{Compute, GpuOptions};

/// What a test says when it fails.
type Outcome = Result<(), Failed>;

/// A test of single operations.
type OperationTest = fn(&Compute) -> Outcome;

/// A test of whole models, which open the GPU themselves.
type ModelTest = fn() -> Outcome;

/// Prints what single operations take, for the sizes of a 1024x1024 and a 512x512 image.
fn figures() -> ExitCode {
    let printed = Compute::open(&GpuOptions::default())
        .map_err(Failed::from)
        .and_then(|compute| {
            println!("{}", compute.gpu.properties());
            [4160, 1088]
                .iter()
                .try_for_each(|&tokens| figures::print(&compute, tokens))
        });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--figures") {
        return figures();
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
    let skipped = match Compute::open(&options) {
        Ok(compute) => {
            eprintln!("{}", compute.gpu.properties());
            false
        }
        Err(error) => {
            eprintln!("SKIPPED: every test, because {error}");
            true
        }
    };
    let operations = operations::ALL.iter().map(|&(name, test)| {
        let options = options.clone();
        Trial::test(name, move || test(&Compute::open(&options)?))
    });
    let models = model::ALL
        .iter()
        .map(|&(name, test)| Trial::test(name, test));
    let tests = operations
        .chain(models)
        .map(|test| test.with_ignored_flag(skipped))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    println!(
        "{} passed, {} failed, {} skipped",
        conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
    );
    conclusion.exit_code()
}
