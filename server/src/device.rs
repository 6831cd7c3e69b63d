//! Chooses what computes, once, and loads the model there.

use crate::args::{Device, Model, Precision};
use crate::failure::Failure;
use crate::files;
use std::path::Path;
use std::time::Instant;
use zimage_checkpoint::{Checkpoint, CheckpointError, ControlNet};
use zimage_core::executor::Executor;
use zimage_cuda::{Ceilings, CudaExecutor, CudaOptions, GpuOptions, LoadError};
use zimage_models::CandleExecutor;
use zimage_nvml::Gpus;

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// candle, in float32.
    Cpu,
    /// The CUDA engine, in bfloat16 or int8.
    Cuda,
}

/// What the flags ask for. A machine with a GPU never computes on its CPU unless that was asked for.
pub(crate) fn choose(model: &Model, gpus: &Gpus) -> Result<Chosen, Failure> {
    let chosen = match model.device {
        Device::Cpu => Chosen::Cpu,
        Device::Cuda => Chosen::Cuda,
        Device::Auto if gpus.count() > 0 => Chosen::Cuda,
        Device::Auto => Chosen::Cpu,
    };
    let refused = match (chosen, model.precision) {
        (Chosen::Cpu, Precision::Bfloat16) => {
            "--precision bfloat16 needs a GPU: the CPU computes in float32"
        }
        (Chosen::Cpu, Precision::Int8) => {
            "--precision int8 needs a Hopper GPU: the CPU computes in float32"
        }
        (Chosen::Cuda, Precision::Int8) if !model.lora.is_empty() => {
            "--precision int8 takes no --lora yet: what that costs in accuracy was not measured; use bfloat16"
        }
        (Chosen::Cuda, Precision::Float32) => {
            "--precision float32 needs --device cpu: a GPU computes in bfloat16"
        }
        (Chosen::Cuda, _) if model.controlnet.is_some() => {
            "--controlnet needs --device cpu: the GPU's engine has no ControlNet yet"
        }
        _ => return Ok(chosen),
    };
    Err(Failure::Unsupported(refused.to_owned()))
}

/// The name of what the model is computed in.
pub(crate) const fn precision(model: &Model, chosen: Chosen) -> &'static str {
    match (chosen, model.precision) {
        (Chosen::Cpu, _) => "float32",
        (Chosen::Cuda, Precision::Int8) => "int8",
        (Chosen::Cuda, _) => "bfloat16",
    }
}

/// The model where it is computed.
pub(crate) struct Loaded {
    /// One for each device.
    pub(crate) executors: Vec<Box<dyn Executor>>,
    /// Whether requests may have images that the prompt speaks about, in place of one to start from.
    pub(crate) omni: bool,
}

/// What is loaded, as far as it decides which requests there may be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) chosen: Chosen,
    pub(crate) devices: usize,
    pub(crate) omni: bool,
}

impl Loaded {
    /// What it decides about requests.
    pub(crate) fn shape(&self, chosen: Chosen) -> Shape {
        Shape {
            chosen,
            devices: self.executors.len(),
            omni: self.omni,
        }
    }
}

/// Opens, verifies and loads the model on one device. Takes seconds to minutes.
pub(crate) fn load(
    model: &Model,
    chosen: Chosen,
    gpus: &Gpus,
) -> Result<Box<dyn Executor>, Failure> {
    let loaded = load_all(model, chosen, gpus, Some(1))?;
    let one = loaded.executors.into_iter().next();
    one.ok_or_else(|| Failure::Device("no device was loaded".to_owned()))
}

/// The same on as many GPUs as are asked for, on all that the process sees without a number, or on the CPU.
pub(crate) fn load_all(
    model: &Model,
    chosen: Chosen,
    gpus: &Gpus,
    count: Option<usize>,
) -> Result<Loaded, Failure> {
    let began = Instant::now();
    if let (Chosen::Cpu, Some(2..)) = (chosen, count) {
        let refused = "--gpus needs GPUs: here the CPU computes";
        return Err(Failure::Unsupported(refused.to_owned()));
    }
    if chosen == Chosen::Cuda {
        check(gpus, count)?;
    }
    let checkpoint = files::open_with_loras(&model.files, &model.lora)?;
    let executors: Vec<Box<dyn Executor>> = match chosen {
        Chosen::Cpu => vec![Box::new(on_cpu(model, &checkpoint)?)],
        Chosen::Cuda => {
            let count = gpus.count() as usize;
            let executors = CudaExecutor::load_all(&checkpoint, &cuda_options(model), count);
            let boxed = |executor| -> Box<dyn Executor> { Box::new(executor) };
            executors.map_err(failure)?.into_iter().map(boxed).collect()
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    let precision = precision(model, chosen);
    tracing::info!(model = %model.files.model.display(), device = ?chosen, devices = executors.len(), precision, seconds, "the model is loaded");
    Ok(Loaded {
        executors,
        omni: checkpoint.siglip().is_some(),
    })
}

/// Restricts the GPUs to those to compute on, and looks at their memory.
fn check(gpus: &Gpus, count: Option<usize>) -> Result<(), Failure> {
    gpus.restrict_to(visible(count)?);
    zimage_nvml::check(gpus).map_err(Failure::Device)
}

/// The UUIDs of the GPUs to compute on.
fn visible(count: Option<usize>) -> Result<Vec<[u8; 16]>, Failure> {
    let mut uuids = zimage_cuda::uuids().map_err(failure)?;
    let there = uuids.len();
    let asked = count.unwrap_or(there.max(1));
    if asked > there {
        return Err(Failure::Device(format!(
            "{asked} GPUs are asked for, and {there} are visible"
        )));
    }
    uuids.truncate(asked);
    Ok(uuids)
}

fn on_cpu(model: &Model, checkpoint: &Checkpoint) -> Result<CandleExecutor, Failure> {
    let fault = |error: zimage_models::LoadError| Failure::Model(error.to_string());
    let broken = |error: CheckpointError| Failure::Model(error.to_string());
    checkpoint.check_values().map_err(broken)?;
    let executor = CandleExecutor::load(checkpoint).map_err(fault)?;
    let Some(path) = &model.controlnet else {
        return Ok(executor);
    };
    let control_net = ControlNet::open(path, checkpoint.transformer()).map_err(broken)?;
    control_net.verify().map_err(broken)?;
    executor.with_control_net(&control_net).map_err(fault)
}

/// Finds the fastest algorithms for the sizes that are warmed up, and writes them to a file.
pub(crate) fn tune(model: &Model, gpus: &Gpus, out: &Path) -> Result<(), Failure> {
    check(gpus, Some(1))?;
    let checkpoint = files::open_with_loras(&model.files, &model.lora)?;
    let executor = CudaExecutor::load(&checkpoint, &cuda_options(model)).map_err(failure)?;
    let failed = |error| Failure::Other(format!("failed to write {}: {error}", out.display()));
    executor.export_tuning(out).map_err(failed)
}

fn cuda_options(model: &Model) -> CudaOptions {
    let sizes = model.gpu.gpu_warm_up.iter();
    CudaOptions {
        gpu: gpu_options(model),
        precision: match model.precision {
            Precision::Int8 => zimage_cuda::Precision::Int8,
            Precision::Auto | Precision::Float32 | Precision::Bfloat16 => {
                zimage_cuda::Precision::Bf16
            }
        },
        warm_up: sizes.map(|&(width, height)| (height, width)).collect(),
    }
}

/// The libraries' best on the GPU; nothing on the CPU.
pub(crate) fn ceilings(model: &Model, chosen: Chosen) -> Result<Option<Ceilings>, Failure> {
    match chosen {
        Chosen::Cpu => Ok(None),
        Chosen::Cuda => {
            let ceilings = Ceilings::measure(&gpu_options(model)).map_err(failure)?;
            Ok(Some(ceilings))
        }
    }
}

fn gpu_options(model: &Model) -> GpuOptions {
    GpuOptions {
        ordinal: 0,
        cache: model.gpu.gpu_cache.clone(),
        tuning: model.gpu.gpu_tuning.clone(),
        libraries: model.gpu.gpu_libraries.clone(),
        memory_limit: model.gpu.gpu_memory_limit,
    }
}

fn failure(error: LoadError) -> Failure {
    match error {
        LoadError::Checkpoint(error) => Failure::Model(error.to_string()),
        LoadError::Unsupported(_) | LoadError::Tuning(_) => Failure::Unsupported(error.to_string()),
        _ => Failure::Device(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, Program};
    use clap::Parser as _;

    fn chosen(flags: &[&str]) -> Result<Chosen, String> {
        let always = ["zimage-server", "serve", "--model", "m"];
        let program = Program::try_parse_from(always.iter().chain(flags)).unwrap();
        let Command::Serve(serve) = program.command else {
            return Err("not serve".to_owned());
        };
        choose(&serve.model, &Gpus::none()).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn without_a_gpu_the_cpu_computes_in_float32() {
        assert_eq!(chosen(&[]), Ok(Chosen::Cpu));
        assert!(chosen(&["--precision", "bfloat16"]).is_err());
        let refused = chosen(&["--precision", "int8"]).unwrap_err();
        assert!(refused.contains("needs a Hopper GPU"), "{refused}");
    }

    #[test]
    fn int8_is_computed_when_it_is_asked_for_and_without_what_was_not_measured_in_it() {
        let int8 = ["--device", "cuda", "--precision", "int8"];
        assert_eq!(chosen(&int8), Ok(Chosen::Cuda));
        let with_lora = [&int8[..], &["--lora", "style.safetensors"]].concat();
        let refused = chosen(&with_lora).unwrap_err();
        assert!(refused.contains("takes no --lora"), "{refused}");
    }

    #[test]
    fn a_gpu_that_was_asked_for_computes_in_bfloat16_or_not_at_all() {
        assert_eq!(chosen(&["--device", "cuda"]), Ok(Chosen::Cuda));
        assert!(chosen(&["--device", "cuda", "--precision", "float32"]).is_err());
        let refused = chosen(&["--device", "cuda", "--controlnet", "c"]).unwrap_err();
        assert!(
            refused.contains("--controlnet needs --device cpu"),
            "{refused}"
        );
    }
}
