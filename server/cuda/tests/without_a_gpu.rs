//! What NVIDIA's libraries say of the engine's kernels and operation graphs on a machine without a GPU.
#![expect(clippy::unwrap_used, reason = "a test fails with the error it unwraps")]

use std::env;
use std::path::PathBuf;
use zimage_cuda::dnn::Convolution;
use zimage_cuda::kernels::{SOURCES, compile};
use zimage_cuda::libraries;
use zimage_cuda::shapes::Attention;
use zimage_cuda::shapes::Heads;

/// Opens what tests/cuda-libraries has installed.
fn open_libraries() {
    let folder = folder();
    for file in ["libnvrtc.so.13", "libcudnn.so.9"] {
        assert!(
            folder.join(file).exists(),
            "there is no {file} in {}: run tests/cuda-libraries, or set ZIMAGE_CUDA_LIBRARIES",
            folder.display()
        );
    }
    libraries::open_from(&folder).unwrap();
}

fn folder() -> PathBuf {
    if let Some(folder) = env::var_os("ZIMAGE_CUDA_LIBRARIES") {
        return folder.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| env::home_dir().unwrap().join(".cache"));
    cache.join("zimage/cuda-libraries/lib")
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    open_libraries();
    assert!(libraries::check_compiler().unwrap() >= 13_000);
    for architecture in ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"] {
        for source in SOURCES {
            let code = compile(source, architecture).unwrap();
            assert!(
                code.starts_with(b"\x7fELF"),
                "{} {architecture}",
                source.file
            );
        }
    }
}

/// The sizes of the released model at 64x64, 512x512, 1024x1024 and 2048x2048 pixels, and of its text encoder.
#[test]
fn every_attention_is_one_that_cudnn_knows() {
    open_libraries();
    assert!(libraries::check_dnn().unwrap() >= 90_000);
    let transformer = [16 + 32, 1024 + 64, 4096 + 64, 16_384 + 512].map(|tokens| Attention {
        heads: Heads {
            tokens,
            heads: 30,
            kv_heads: 30,
            width: 128,
        },
        causal: false,
    });
    let text_encoder = [32, 64, 512].map(|tokens| Attention {
        heads: Heads {
            tokens,
            heads: 32,
            kv_heads: 8,
            width: 128,
        },
        causal: true,
    });
    for attention in transformer.into_iter().chain(text_encoder) {
        let checked = attention.graph().and_then(|graph| graph.check());
        assert!(checked.is_ok(), "{attention:?}: {checked:?}");
    }
}

/// The autoencoder's convolutions of a 1024x1024 image: of each size with and without a residual, first and last ones, and
/// those that halve.
#[test]
fn every_convolution_is_one_that_cudnn_knows() {
    open_libraries();
    assert!(libraries::check_dnn().unwrap() >= 90_000);
    let plain = [
        (128, 16, 512),
        (128, 512, 512),
        (256, 512, 512),
        (512, 512, 256),
        (512, 256, 256),
        (1024, 256, 256),
        (1024, 256, 128),
        (1024, 128, 128),
        (1024, 128, 8),
        (1024, 8, 128),
    ];
    for (side, inputs, outputs) in plain {
        for (kernel, residual, halving) in [
            (3, false, false),
            (3, true, false),
            (1, false, false),
            (3, false, true),
        ] {
            let convolution = Convolution {
                height: side,
                width: side,
                inputs,
                outputs,
                kernel,
                residual,
                halving,
            };
            let checked = convolution.graph().and_then(|graph| graph.check());
            assert!(checked.is_ok(), "{convolution:?}: {checked:?}");
        }
    }
}
