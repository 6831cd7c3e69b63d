//! `verify`: a checkpoint is checked before it is served.

use crate::args::{Model, Verify};
use crate::device;
use crate::failure::Failure;
use crate::files;
use crate::progress::Bytes;
use crate::proof;
use zimage_checkpoint::{CheckpointError, ControlNet, MANIFEST, check_manifest};
use zimage_engine::{Engine, EngineMetrics, EngineOptions};
use zimage_nvml::Gpus;

#[expect(clippy::print_stdout, reason = "the verdict is this command's output")]
pub(crate) fn run(args: &Verify) -> Result<(), Failure> {
    let model = &args.model.files.model;
    let bar = Bytes::new("reading");
    // Before the files are understood: a damaged one is better named by its hash than by what its content looks like.
    let compared = check_manifest(model, &mut |progress| bar.show(progress)).map_err(invalid)?;
    drop(bar);
    let one = |fault| invalid(vec![fault]);
    let checkpoint = files::open_with_loras(&args.model.files, &args.model.lora)?;
    let tokens = checkpoint.verify().map_err(one)?;
    if let Some(path) = &args.model.controlnet {
        let control_net = ControlNet::open(path, checkpoint.transformer()).map_err(one)?;
        control_net.verify().map_err(one)?;
    }
    checkpoint.check_values().map_err(one)?;
    println!(
        "{} is complete: every tensor is there with its shape, every value is finite",
        model.display()
    );
    println!("the chat template and the tokenizer made {tokens} tokens of a prompt");
    match compared {
        Some(count) => println!("{count} files have the size and the SHA-256 of {MANIFEST}"),
        None => println!("there is no {MANIFEST} to compare the files with"),
    }
    if args.make_image {
        let (width, height) = make_image(&args.model)?;
        println!("an image of {width}x{height} was made");
    } else {
        println!("no image was made: --make-image does that");
    }
    Ok(())
}

/// What `serve` does before it is ready.
fn make_image(model: &Model) -> Result<(u32, u32), Failure> {
    let gpus = Gpus::find();
    let chosen = device::choose(model, &gpus)?;
    let loaded = device::load_all(model, chosen, &gpus, Some(1))?;
    let shape = loaded.shape(chosen);
    let (options, metrics) = (EngineOptions::default(), EngineMetrics::default());
    let engine = Engine::start(loaded.executors, options, metrics).map_err(Failure::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    runtime.block_on(proof::prove(&engine, model, shape))
}

/// All that is wrong, in one failure.
fn invalid(faults: Vec<CheckpointError>) -> Failure {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Failure::Model(texts.join("; "))
}
