//! What diffusers computes and what this crate computes are the same. `golden/make.py` makes the goldens.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails with the error it unwraps; figures are printed"
)]

use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use zimage_checkpoint::{
    Checkpoint, ControlNet, Lora, Refiner, Shape, make_control_net, make_model,
};
use zimage_core::executor::{Executor as _, Slot};
use zimage_core::pixels::Pixels;
use zimage_core::request::{CfgNormalization, Control, ImageRequest, InitImage, Noise};
use zimage_models::{CandleExecutor, Stage};

/// Largest difference of a stage's values, relative to the largest value.
const TOLERANCE: f32 = 1e-4;

/// A case of `cases.json`, in diffusers' words.
#[derive(Clone, Deserialize)]
struct Case {
    shape: String,
    prompt: String,
    #[serde(default)]
    negative_prompt: String,
    width: u32,
    height: u32,
    num_inference_steps: u32,
    guidance_scale: f32,
    #[serde(default)]
    cfg_normalization: f32,
    #[serde(default = "one")]
    cfg_truncation: f32,
    seed: u64,
    #[serde(default = "one_image")]
    num_images_per_prompt: u32,
    strength: Option<f32>,
    #[serde(default)]
    mask: bool,
    /// Widths and heights of the condition images.
    #[serde(default)]
    references: Vec<[u32; 2]>,
    /// Files of `golden/lora` without the shape's name, each with its scale.
    #[serde(default)]
    loras: Vec<(String, f32)>,
    /// Form of the ControlNet's noise refiner.
    controlnet: Option<String>,
    #[serde(default)]
    controlnet_conditioning_scale: f32,
}

fn one() -> f32 {
    1.0
}

fn one_image() -> u32 {
    1
}

impl Case {
    fn request(&self, index: u32) -> ImageRequest {
        ImageRequest {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            width: self.width,
            height: self.height,
            num_inference_steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            cfg_normalization: match self.cfg_normalization {
                0.0 => CfgNormalization::Off,
                factor => CfgNormalization::Clamp(factor),
            },
            cfg_truncation: self.cfg_truncation,
            noise: Noise {
                seed: self.seed,
                index,
                count: self.num_images_per_prompt,
            },
            init: self.strength().map(|strength| InitImage {
                pixels: pixels(self.width, self.height, |x, y| [x * 5, y * 9, x * y]),
                strength,
                mask: self
                    .mask
                    .then(|| pixels(self.width, self.height, |x, y| [x * 11 + y * 7; 3])),
            }),
            references: (self.references.iter())
                .map(|&[width, height]| reference(width, height))
                .collect(),
            control: self.controlnet.as_ref().map(|_| Control {
                pixels: pixels(self.width, self.height, |x, y| {
                    [x * y, x * 3 + y * 4, 255u32.wrapping_sub(x * 2)]
                }),
                conditioning_scale: self.controlnet_conditioning_scale,
            }),
        }
    }

    /// A ControlNet that keeps a part of an image replaces all of the rest.
    fn strength(&self) -> Option<f32> {
        self.strength.or(self.mask.then_some(1.0))
    }
}

/// An image of the lower bytes of what `colour` gives for each column and row.
fn pixels(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u32; 3]) -> Arc<Pixels> {
    let positions = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = positions
        .flat_map(|(x, y)| colour(x, y))
        .map(|level| level as u8)
        .collect();
    Arc::new(Pixels::new(width, height, rgb).unwrap())
}

/// A condition image: slopes.
fn reference(width: u32, height: u32) -> Arc<Pixels> {
    pixels(width, height, |x, y| {
        [
            x * 255 / width,
            y * 255 / height,
            x * y * 700 / (width * height),
        ]
    })
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("tests/golden")
        .join(name)
}

fn cases(shape: Shape, form: Option<Refiner>) -> BTreeMap<String, Case> {
    let mut cases: BTreeMap<String, Case> =
        serde_json::from_reader(File::open(golden("cases.json")).unwrap()).unwrap();
    let named = form.map(|form| form.to_string());
    cases.retain(|_, case| case.shape == shape.to_string() && case.controlnet == named);
    let least = match (shape, form) {
        (_, Some(_)) => 1,
        (Shape::Omni, None) => 8,
        _ => 20,
    };
    assert!(cases.len() >= least, "{shape} has {} cases", cases.len());
    cases
}

/// A model, and a ControlNet where there is a form for one.
struct Models {
    dir: TempDir,
    shape: Shape,
    form: Option<Refiner>,
}

impl Models {
    fn make(shape: Shape, form: Option<Refiner>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_model(&dir.path().join("model"), shape, 7).unwrap();
        if let Some(form) = form {
            make_control_net(&dir.path().join("controlnet"), shape, form, 7).unwrap();
        }
        Self { dir, shape, form }
    }

    /// The model with files of `golden/lora` merged into it, each with its scale.
    fn load(&self, loras: &[(String, f32)]) -> CandleExecutor {
        let open = |(name, scale): &(String, f32)| {
            let file = format!("lora/{}-{name}.safetensors", self.shape);
            Lora::open(&golden(&file), *scale).unwrap()
        };
        let checkpoint = Checkpoint::open(&self.dir.path().join("model")).unwrap();
        let loras = loras.iter().map(open).collect();
        let checkpoint = checkpoint.with_loras(loras).unwrap();
        let executor = CandleExecutor::load(&checkpoint).unwrap();
        if self.form.is_none() {
            return executor;
        }
        let path = self.dir.path().join("controlnet");
        let control_net = ControlNet::open(&path, checkpoint.transformer()).unwrap();
        executor.with_control_net(&control_net).unwrap()
    }
}

/// The stages that diffusers computed for a case.
struct Expected(Vec<u8>);

impl Expected {
    fn read(name: &str) -> Self {
        Self(fs::read(golden(&format!("{name}.safetensors"))).unwrap())
    }

    /// One image's part of a stage, or the whole stage when it is not a batch.
    fn values(&self, stage: &str, index: u32, length: usize) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let numbers = file.tensor(stage).unwrap().data().chunks_exact(4);
        let start = index as usize * length;
        numbers
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .skip(start)
            .take(length)
            .collect()
    }

    fn has(&self, stage: &str) -> bool {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(stage).is_ok()
    }

    /// Steps that ran.
    fn steps(&self) -> usize {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.names()
            .iter()
            .filter(|name| name.starts_with("latents-"))
            .count()
    }

    fn check(&self, actual: &Stage, stage: &str, index: u32) -> f32 {
        let expected = self.values(stage, index, actual.values.len());
        assert_eq!(actual.values.len(), expected.len(), "{stage}");
        let largest = expected
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()));
        let differences = actual
            .values
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs());
        let relative = differences.fold(
            0f32,
            |most, difference| if difference <= most { most } else { difference },
        ) / largest;
        assert!(
            relative <= TOLERANCE,
            "{stage} of image {index} differs by {relative:e}"
        );
        relative
    }
}

fn read_png(name: &str) -> Pixels {
    let mut reader = png::Decoder::new(BufReader::new(File::open(golden(name)).unwrap()))
        .read_info()
        .unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!(
        (info.color_type, info.bit_depth),
        (png::ColorType::Rgb, png::BitDepth::Eight)
    );
    Pixels::new(info.width, info.height, rgb).unwrap()
}

/// Compares what the ControlNet sees. Its channels that are always zero are not computed.
fn agree_on_control(executor: &CandleExecutor, expected: &Expected, case: &Case) -> f32 {
    let context = executor.control_context(&case.request(0)).unwrap();
    expected.check(&context, "control_context", 0)
}

/// Compares the beginning of each hint, where the case has them.
fn agree_on_hints(executor: &CandleExecutor, slot: Slot, expected: &Expected) -> f32 {
    let hints = executor.hints(slot).unwrap().into_iter().enumerate();
    let compared = hints.filter_map(|(i, mut hint)| {
        let (name, rows) = (format!("hint-{i}"), 8);
        hint.values.truncate(rows * hint.shape[1]);
        expected.has(&name).then(|| expected.check(&hint, &name, 0))
    });
    compared.fold(0.0, f32::max)
}

/// Runs every case of a shape; prints the largest differences and fails with the first that is too large.
fn agree(shape: Shape, form: Option<Refiner>) {
    let models = Models::make(shape, form);
    let mut plain = models.load(&[]);
    for (name, case) in cases(shape, form) {
        let mut merged = (!case.loras.is_empty()).then(|| models.load(&case.loras));
        let executor = merged.as_mut().unwrap_or(&mut plain);
        let expected = Expected::read(&name);
        let mut worst = expected.check(
            &executor
                .omni_prompt_embeds(&case.prompt, case.references.len())
                .unwrap(),
            "prompt_embeds",
            0,
        );
        if case.guidance_scale > 0.0 {
            let negative =
                executor.omni_prompt_embeds(&case.negative_prompt, case.references.len());
            worst = worst.max(expected.check(&negative.unwrap(), "negative_prompt_embeds", 0));
        }
        let seen = executor.condition_images(&case.request(0)).unwrap();
        assert_eq!(seen.len(), case.references.len(), "{name}");
        for (i, (latents, features)) in seen.iter().enumerate() {
            worst = worst.max(expected.check(latents, &format!("reference-{i}"), 0));
            worst = worst.max(expected.check(features, &format!("siglip-{i}"), 0));
        }
        if form.is_some() {
            worst = worst.max(agree_on_control(executor, &expected, &case));
        }
        for index in 0..case.num_images_per_prompt {
            let begun = executor.begin(&case.request(index)).unwrap();
            let start = executor.latents(begun.slot).unwrap();
            if case.strength.is_none() {
                // Pure noise, which has no tolerance.
                let bits = |numbers: &[f32]| {
                    numbers
                        .iter()
                        .map(|number| number.to_bits())
                        .collect::<Vec<_>>()
                };
                let expected = expected.values("start", index, start.values.len());
                assert_eq!(bits(&start.values), bits(&expected), "{name}");
            }
            worst = worst.max(expected.check(&start, "start", index));
            worst = worst.max(agree_on_hints(executor, begun.slot, &expected));
            assert_eq!(begun.steps as usize, expected.steps(), "{name}");
            for step in 0..begun.steps {
                executor.step(&[begun.slot]).unwrap();
                let latents = executor.latents(begun.slot).unwrap();
                worst = worst.max(expected.check(&latents, &format!("latents-{step}"), index));
            }
            worst =
                worst.max(expected.check(&executor.decoded(begun.slot).unwrap(), "decoded", index));

            let (actual, expected) = (
                executor.decode(begun.slot).unwrap(),
                read_png(&format!("{name}.{index}.png")),
            );
            assert_eq!(
                (actual.width(), actual.height()),
                (expected.width(), expected.height()),
                "{name}"
            );
            let levels = actual
                .rgb()
                .iter()
                .zip(expected.rgb())
                .map(|(a, b)| a.abs_diff(*b))
                .max()
                .unwrap();
            assert!(
                levels <= 1,
                "{name}: image {index} differs by {levels} levels"
            );
            println!("{name} {index}: {worst:.1e}, {levels} levels");
            executor.release(begun.slot);
        }
    }
}

#[test]
fn tiny_model_agrees_with_diffusers() {
    agree(Shape::Tiny, None);
}

#[test]
fn odd_model_agrees_with_diffusers() {
    agree(Shape::Odd, None);
}

#[test]
fn every_form_of_control_net_agrees_with_diffusers() {
    for form in Refiner::ALL {
        agree(Shape::Tiny, Some(form));
        agree(Shape::Odd, Some(form));
    }
}

#[test]
fn omni_model_agrees_with_diffusers() {
    agree(Shape::Omni, None);
}
