//! The engine's own kernels: their sources, the compiler, and compiled kernels on disk.
//!
//! ```text
//! kernels/*.cu ─> NVRTC (no toolkit, no headers) ─> machine code for one architecture ─> Module
//!                   └──────── cache file, named by everything that decides it ──────┘
//! ```

mod cache;
mod compile;

pub use cache::Cache;
pub use compile::compile;

/// One file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The file's name.
    pub file: &'static str,
    /// What its text builds upon, beside the prelude.
    header: &'static str,
    /// Its text.
    pub text: &'static str,
    /// The kernels that it holds.
    pub kernels: &'static [&'static str],
}

/// What every source begins with.
const PRELUDE: &str = include_str!("kernels/prelude.cuh");

/// What kernels of Hopper's own are made of.
const HOPPER: &str = include_str!("kernels/hopper.cuh");

/// How rows become eight bits.
const EIGHT_BITS: &str = include_str!("kernels/eight_bits.cuh");

macro_rules! source {
    ($file:literal: $($kernel:literal),+) => {
        source!($file after ""; $($kernel),+)
    };
    ($file:literal after $header:expr; $($kernel:literal),+) => {
        Source {
            file: $file,
            header: $header,
            text: include_str!(concat!("kernels/", $file)),
            kernels: &[$($kernel),+],
        }
    };
}

/// Every kernel of the engine.
pub const SOURCES: &[Source] = &[
    source!("attention.cu": "softmax", "attention"),
    source!("convert.cu": "f32_to_bf16", "f16_to_bf16"),
    source!("embed.cu": "gather", "repeat_row", "silu_f32", "modulation", "add_one"),
    source!("group_norm.cu": "group_norm_sums", "group_norm_statistics", "group_norm_apply"),
    source!("hopper_attention.cu" after HOPPER; "attention_of_pairs"),
    source!("hopper_product.cu" after HOPPER; "gate_up_swiglu", "gate_up_swiglu_e4m3", "gate_up_swiglu_e4m3_to_e4m3",
            "gate_up_swiglu_s8", "product_bf16", "product_e4m3", "product_s8"),
    source!("image.cu": "latents_to_image", "upsample", "image_to_bytes"),
    source!("norm.cu" after EIGHT_BITS; "rms_norm", "rms_norm_s8", "add_norm", "add_norm_s8", "layer_norm"),
    source!("patch.cu": "patchify", "unpatchify"),
    source!("png.cu": "png_filter", "png_tally", "png_pack"),
    source!("quantise.cu" after EIGHT_BITS; "quantise_e4m3", "quantise_s8"),
    source!("rope.cu": "qk_norm_rope_interleaved", "qk_norm_rope_halves"),
    source!("sampler.cu": "euler_step", "keep", "guide"),
    source!("swiglu.cu": "swiglu"),
];

impl Source {
    /// What the compiler sees.
    pub fn whole(&self) -> String {
        format!("{PRELUDE}\n{}\n{}", self.header, self.text)
    }
}

/// The compiler's name of a compute capability. Machine code for 9.0 may use what only that chip has.
pub fn architecture(major: i32, minor: i32) -> String {
    let only = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{only}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_listed_and_waits_for_earlier_work_and_every_name_is_a_kernel() {
        for source in SOURCES {
            let defined = source.text.matches("extern \"C\" __global__").count();
            assert_eq!(defined, source.kernels.len(), "{}", source.file);
            let waits = source.text.matches("after_earlier_work();").count();
            assert_eq!(waits, defined, "{}", source.file);
            for kernel in source.kernels {
                assert!(source.text.contains(&format!(" {kernel}(")), "{kernel}");
            }
        }
    }

    #[test]
    fn hopper_alone_has_a_target_of_its_own() {
        assert_eq!(architecture(9, 0), "sm_90a");
        assert_eq!(architecture(8, 6), "sm_86");
        assert_eq!(architecture(12, 0), "sm_120");
    }
}
