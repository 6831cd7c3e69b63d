//! Several GPUs that hold the same model.

use crate::model::{checkpoint, request};
use crate::{ModelTest, Outcome};
use zimage_checkpoint::Shape;
use zimage_core::executor::Executor as _;
use zimage_core::request::ImageRequest;
use zimage_cuda::{CudaExecutor, CudaOptions, GpuOptions, Precision};

pub(crate) const ALL: &[(&str, ModelTest)] = &[(
    "every_gpu_gives_the_same_latents_and_bytes",
    every_gpu_gives_the_same_latents_and_bytes,
)];

/// The latents after each step, as bits, and the pixels.
type Made = (Vec<Vec<u32>>, Vec<u8>);

fn made(executor: &mut CudaExecutor, request: &ImageRequest) -> Result<Made, crate::Failed> {
    let begun = executor.begin(request)?;
    let mut latents = Vec::new();
    for _ in 0..begun.steps {
        executor.step(&[begun.slot])?;
        let of_step = executor.latents(begun.slot)?;
        latents.push(of_step.into_iter().map(f32::to_bits).collect());
    }
    let pixels = executor.decode(begun.slot)?;
    executor.release(begun.slot);
    Ok((latents, pixels.rgb().to_vec()))
}

/// The second copies the weights of the first and takes its algorithms.
fn every_gpu_gives_the_same_latents_and_bytes() -> Outcome {
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(folder.path(), Shape::Wide)?;
    let count = zimage_cuda::uuids()?.len();
    for precision in [Precision::Bf16, Precision::Int8] {
        let options = CudaOptions {
            gpu: GpuOptions::default(),
            precision,
            warm_up: vec![(256, 256), (512, 512)],
        };
        let mut all = CudaExecutor::load_all(&checkpoint, &options, count)?;
        for (width, height) in [(256, 256), (512, 512), (720, 400)] {
            let mut guided = request(width, height, "a fox");
            guided.guidance_scale = 3.0;
            for request in [request(width, height, "a fox in the snow"), guided] {
                let mut of_each = all.iter_mut().map(|executor| made(executor, &request));
                let first = of_each.next().ok_or("no GPU")??;
                for (number, other) in of_each.enumerate() {
                    if other? != first {
                        let gpu = number + 1;
                        let what = format!(
                            "{precision:?}, {width}x{height}: GPU {gpu} differs from GPU 0"
                        );
                        return Err(what.into());
                    }
                }
            }
        }
    }
    Ok(())
}
