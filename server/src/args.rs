//! The command line. Flags that diffusers has too carry diffusers' names.

use crate::lora_file::LoraFile;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use zimage_checkpoint::{Refiner, Shape};
use zimage_core::parameters::DEFAULT_SIDE;
use zimage_core::request::CfgNormalization;
use zimage_core::variant::Variant;
use zimage_http::ServeArgs;

/// Z-Image: text to image, as a server and on the command line.
#[derive(Debug, Parser)]
#[command(name = "zimage-server", version, about)]
pub(crate) struct Program {
    /// Form of the log, which goes to standard error.
    #[arg(long, global = true, env = "ZIMAGE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve OpenAI's image API.
    Serve(Serve),
    /// Make images and write them to files.
    Generate(Generate),
    /// Check a checkpoint's files, tensors and values, its chat template and its tokenizer.
    Verify(Verify),
    /// Write a checkpoint again in bfloat16, with a manifest that verify compares it with.
    Convert(Convert),
    /// Find the fastest algorithms for a GPU, and write them to a file for every server with one like it.
    Tune(Tune),
    /// Write a checkpoint of random weights, for trials, tests and measurements.
    MakeModel(MakeModel),
    /// Measure what each part of a request costs on this machine.
    Bench(Bench),
}

/// What to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A GPU when one is visible, the CPU otherwise.
    Auto,
    /// An NVIDIA GPU.
    Cuda,
    /// The CPU, in float32: correct, and slow for real models.
    Cpu,
}

/// Number format of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// float32 on the CPU, bfloat16 on a GPU.
    Auto,
    /// float32, on the CPU.
    Float32,
    /// bfloat16, on a GPU.
    Bfloat16,
    /// int8 in the transformer's large products and bfloat16 elsewhere, on a Hopper GPU: faster and in less memory, with a
    /// hundredth of error in each product.
    Int8,
}

/// Which model.
#[derive(Clone, Debug, Args)]
pub(crate) struct Files {
    /// Folder of the checkpoint in the Hugging Face layout: the one with model_index.json.
    #[arg(long, env = "ZIMAGE_MODEL")]
    pub(crate) model: PathBuf,
    /// One file with the transformer's weights, in place of the folder's: ComfyUI's safetensors file, or GGUF.
    #[arg(long, env = "ZIMAGE_TRANSFORMER", value_name = "FILE")]
    pub(crate) transformer: Option<PathBuf>,
}

/// Which model, and on what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Model {
    #[command(flatten)]
    pub(crate) files: Files,
    /// What to compute on.
    #[arg(long, env = "ZIMAGE_DEVICE", value_enum, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// Number format of weights and activations.
    #[arg(long, visible_alias = "dtype", env = "ZIMAGE_PRECISION", value_enum, default_value_t = Precision::Auto)]
    pub(crate) precision: Precision,
    /// LoRA or LoKR file to merge into the weights, with its scale if that is not 1: style.safetensors:0.8. Several add
    /// up; a negative scale takes away. A file with a key that fits no weight is refused.
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = LoraFile::parse)]
    pub(crate) lora: Vec<LoraFile>,
    /// ControlNet for requests with a control image: a folder in diffusers' layout, or a file of Fun-Union 1.0, 2.0 or
    /// 2.1. On the CPU only.
    #[arg(long, env = "ZIMAGE_CONTROLNET")]
    pub(crate) controlnet: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) gpu: Gpu,
}

/// How a GPU is used; nothing of it matters without one.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "GPU")]
pub(crate) struct Gpu {
    /// Folder for compiled kernels and the algorithms that were fastest, which several processes may share. None: they
    /// are compiled and looked for at each start.
    #[arg(long, env = "ZIMAGE_GPU_CACHE")]
    pub(crate) gpu_cache: Option<PathBuf>,
    /// Folder with NVIDIA's libraries that is looked into before any other.
    #[arg(long, env = "ZIMAGE_GPU_LIBRARIES")]
    pub(crate) gpu_libraries: Option<PathBuf>,
    /// Bytes of the GPU's memory that are used at most, as 20Gi or 20000Mi. None: all of it.
    #[arg(long, env = "ZIMAGE_GPU_MEMORY_LIMIT", value_parser = bytes)]
    pub(crate) gpu_memory_limit: Option<usize>,
    /// File of algorithms that `tune` found fastest. With the same file, and the same GPU, driver and libraries, every
    /// server makes the same bytes of a request.
    #[arg(long, env = "ZIMAGE_GPU_TUNING", value_name = "FILE")]
    pub(crate) gpu_tuning: Option<PathBuf>,
    /// Widths and heights that are prepared before the server is ready: 1024x1024,512x512. Each costs some seconds the
    /// first time, and the largest decides how much memory is kept.
    #[arg(long, env = "ZIMAGE_GPU_WARM_UP", default_value = "1024x1024", value_delimiter = ',', value_parser = size)]
    pub(crate) gpu_warm_up: Vec<(u32, u32)>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) model: Model,
    /// GPUs to compute on, each with the whole model and images of its own. None: with --device cuda every one that the
    /// server sees.
    #[arg(long, env = "ZIMAGE_GPUS", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) gpus: Option<u8>,
    /// Seconds for which the model may load and make its first image. After that the server ends: a volume that hangs may come back for the next.
    #[arg(long, env = "ZIMAGE_LOAD_TIMEOUT_SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) load_timeout_seconds: u64,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) model: Model,
    /// The model's name, z-image-turbo or z-image: decides the defaults for steps and guidance.
    #[arg(long, default_value = "z-image-turbo", value_parser = Variant::from_model_name)]
    pub(crate) model_name: Variant,
    /// What the image shows.
    #[arg(long)]
    pub(crate) prompt: String,
    /// What it must not show; used with guidance only.
    #[arg(long, default_value = "")]
    pub(crate) negative_prompt: String,
    /// File to write: .png, .jpg, .jpeg or .webp. Several images get .0, .1, … before the extension.
    #[arg(long, short)]
    pub(crate) output: PathBuf,
    /// Width in pixels, a multiple of 16.
    #[arg(long, default_value_t = DEFAULT_SIDE)]
    pub(crate) width: u32,
    /// Height in pixels, a multiple of 16.
    #[arg(long, default_value_t = DEFAULT_SIDE)]
    pub(crate) height: u32,
    /// Seed of the noise. None: a random one, which is printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Denoising steps. None: the model's own number.
    #[arg(long)]
    pub(crate) num_inference_steps: Option<u32>,
    /// Guidance scale; 0 means none. None: the model's own.
    #[arg(long)]
    pub(crate) guidance_scale: Option<f32>,
    /// true, false, or a number: limits the norm of the guided prediction.
    #[arg(long, default_value = "false", value_parser = cfg_normalization)]
    pub(crate) cfg_normalization: CfgNormalization,
    /// Normalised time above which guidance is off.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) cfg_truncation: f32,
    /// Images to make.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) num_images: u32,
    /// Image to start from, already of the width and height.
    #[arg(long)]
    pub(crate) image: Option<PathBuf>,
    /// Mask of the image: white is replaced, black is kept.
    #[arg(long, requires = "image")]
    pub(crate) mask: Option<PathBuf>,
    /// Condition image that the prompt speaks about, of any size; several are given one by one. Needs an Omni model.
    #[arg(long = "reference", conflicts_with = "image")]
    pub(crate) references: Vec<PathBuf>,
    /// How much of the image is replaced, above 0 to 1. None: 0.6, and with a control image 1, the only choice there.
    #[arg(long, requires = "image")]
    pub(crate) strength: Option<f32>,
    /// Image that the new one follows, such as edges, depth or a pose, already of the width and height.
    #[arg(long, requires = "controlnet")]
    pub(crate) control_image: Option<PathBuf>,
    /// How strongly it follows, from 0 to 2. None: 0.75.
    #[arg(long, requires = "control_image")]
    pub(crate) controlnet_conditioning_scale: Option<f32>,
    /// What the PNG tells about how it was made.
    #[arg(long, value_enum, default_value_t = Metadata::Full)]
    pub(crate) metadata: Metadata,
}

/// What a file tells about how it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Metadata {
    /// Prompt, seed, steps, the model and a hash of its weights.
    Full,
    /// Nothing.
    None,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) model: Model,
    /// GPUs to measure images a second on, from one to so many; all else is measured on the first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) gpus: u8,
    /// Sizes to measure.
    #[arg(long, value_delimiter = ',', value_parser = size, default_value = "512x512,768x768,1024x1024,1536x1536,2048x2048")]
    pub(crate) sizes: Vec<(u32, u32)>,
    /// Denoising steps of a request.
    #[arg(long, default_value_t = 8)]
    pub(crate) num_inference_steps: u32,
    /// Requests of each size that are measured over HTTP, and up to 40 part by part.
    #[arg(long, default_value_t = 30)]
    pub(crate) requests: u32,
    /// Seconds of requests before the measured ones of each size: a card under load is slower than a rested one.
    #[arg(long, default_value_t = 10)]
    pub(crate) warm_up_seconds: u64,
    /// Seconds of rest before each measured request.
    #[arg(long, default_value_t = 0)]
    pub(crate) pause_seconds: u64,
    /// Numbers of requests that are computed together, for images a second.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    pub(crate) batches: Vec<u32>,
    /// How often the prompt repeats its three words.
    #[arg(long, default_value_t = 8)]
    pub(crate) prompt_words: usize,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Tune {
    /// The sizes to tune for are those of --gpu-warm-up.
    #[command(flatten)]
    pub(crate) model: Model,
    /// File to write, for --gpu-tuning.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) model: Model,
    /// Load the model too, and make one small image with it, as serve does before it is ready.
    #[arg(long)]
    pub(crate) make_image: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Folder to write: one that is not there, or empty.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MakeModel {
    /// Shape of the model: tiny, odd (sizes that divide badly), wide (those of large models' kernels), full (the released
    /// size, 20 GB), or omni (takes condition images).
    #[arg(long, default_value = "tiny")]
    pub(crate) shape: Shape,
    /// Write a ControlNet for that shape instead. Its noise refiner is own (plain blocks, as in Fun-Union 1.0), shared
    /// (the control layers, 2.0) or controlled (control blocks, 2.1).
    #[arg(long)]
    pub(crate) controlnet: Option<Refiner>,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Folder to write.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

/// A number of bytes as Kubernetes writes it, with Mi or Gi behind it or nothing.
fn bytes(text: &str) -> Result<usize, String> {
    let units = [("Gi", 1 << 30), ("Mi", 1 << 20), ("", 1)];
    let number = |(unit, factor): (&str, usize)| {
        let number: usize = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(factor)
    };
    let found = units.into_iter().find_map(number);
    found.ok_or_else(|| "a number of bytes: 20Gi, 20000Mi or 21474836480".to_owned())
}

/// Width and height.
fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x');
    let sides = sides.and_then(|(width, height)| width.parse().ok().zip(height.parse().ok()));
    sides.ok_or_else(|| "a width and a height: 1024x1024".to_owned())
}

fn cfg_normalization(text: &str) -> Result<CfgNormalization, String> {
    match text {
        "false" => Ok(CfgNormalization::of(0.0)),
        "true" => Ok(CfgNormalization::of(1.0)),
        _ => match text.parse::<f32>() {
            Ok(factor) if factor >= 0.0 && factor.is_finite() => Ok(CfgNormalization::of(factor)),
            _ => Err("true, false or a number from 0 on".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn memory_is_written_as_kubernetes_writes_it() {
        assert_eq!(bytes("22Gi"), Ok(22 << 30));
        assert_eq!(bytes("512Mi"), Ok(512 << 20));
        assert_eq!(bytes("7"), Ok(7));
        assert!(bytes("7G").is_err() && bytes("").is_err());
        assert!(bytes("99999999999999Gi").is_err());
    }

    #[test]
    fn a_size_is_a_width_and_a_height() {
        assert_eq!(size("1024x512"), Ok((1024, 512)));
        assert!(size("1024").is_err() && size("ax1").is_err());
    }

    #[test]
    fn cfg_normalization_takes_what_diffusers_takes() {
        assert_eq!(cfg_normalization("true"), Ok(CfgNormalization::Clamp(1.0)));
        assert_eq!(cfg_normalization("0"), Ok(CfgNormalization::Off));
        assert_eq!(cfg_normalization("0.5"), Ok(CfgNormalization::Clamp(0.5)));
        assert!(cfg_normalization("-1").is_err());
        assert!(cfg_normalization("yes").is_err());
    }
}
