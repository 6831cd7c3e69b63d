//! Work that is recorded and replayed.

use crate::Outcome;
use crate::oracle::{random, upload_f32};
use zimage_cuda::Compute;
use zimage_cuda::ops::embed::add_one;

/// What cannot be recorded leaves a stream that computes, and records again.
pub(super) fn a_failed_recording(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let x = random(1, 8);
    let memory = upload_f32(gpu, &x)?;
    let waits = || {
        add_one(gpu, memory.region(), 8)?;
        gpu.synchronize()
    };
    if gpu.capture(waits).is_ok() {
        return Err("waiting for the stream was recorded".into());
    }
    gpu.synchronize()?;
    if gpu.download::<f32>(memory.region(), 8)? != x {
        return Err("what was to be recorded was done".into());
    }
    let graph = gpu.capture(|| add_one(gpu, memory.region(), 8))?;
    graph.launch()?;
    graph.launch()?;
    let twice: Vec<f32> = x.iter().map(|value| value + 1.0 + 1.0).collect();
    if gpu.download::<f32>(memory.region(), 8)? != twice {
        return Err("the recorded work was not done twice".into());
    }
    Ok(())
}
