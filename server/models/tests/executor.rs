//! What the engine may rely on.
#![expect(clippy::unwrap_used, reason = "a test fails with the error it unwraps")]

use std::sync::Arc;
use zimage_checkpoint::{Checkpoint, ControlNet, Refiner, Shape, make_control_net, make_model};
use zimage_core::executor::{Executor, ExecutorError, Slot};
use zimage_core::pixels::Pixels;
use zimage_core::request::{CfgNormalization, Control, ImageRequest, InitImage, Noise};
use zimage_models::CandleExecutor;

fn executor(shape: Shape) -> CandleExecutor {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), shape, 3).unwrap();
    // The weights are in memory, so the folder may go.
    CandleExecutor::load(&Checkpoint::open(dir.path()).unwrap()).unwrap()
}

fn request(prompt: &str, seed: u64) -> ImageRequest {
    ImageRequest {
        prompt: prompt.to_owned(),
        negative_prompt: String::new(),
        width: 80,
        height: 48,
        num_inference_steps: 3,
        guidance_scale: 0.0,
        cfg_normalization: CfgNormalization::Off,
        cfg_truncation: 1.0,
        noise: Noise {
            seed,
            index: 0,
            count: 1,
        },
        init: None,
        references: Vec::new(),
        control: None,
    }
}

fn image(executor: &mut CandleExecutor, request: &ImageRequest) -> Pixels {
    executor.generate(request, &mut |_, _| ()).unwrap()
}

#[test]
fn same_request_gives_the_same_bytes_and_another_seed_others() {
    for shape in [Shape::Tiny, Shape::Odd] {
        let mut executor = executor(shape);
        let first = image(&mut executor, &request("a cat", 1));
        assert_eq!((first.width(), first.height()), (80, 48));
        assert_eq!(image(&mut executor, &request("a cat", 1)), first);
        assert_ne!(image(&mut executor, &request("a cat", 2)), first);
        assert_ne!(image(&mut executor, &request("a dog", 1)), first);
    }
}

#[test]
fn batch_gives_each_request_the_image_it_gets_alone() {
    for shape in [Shape::Tiny, Shape::Odd] {
        let mut executor = executor(shape);
        let mut requests = [
            request("a cat", 1),
            request(&"x".repeat(60), 2),
            request("a dog", 3),
        ];
        requests[1].width = 32;
        requests[2].guidance_scale = 3.0;
        let alone: Vec<Pixels> = requests
            .iter()
            .map(|request| image(&mut executor, request))
            .collect();

        // The last one joins a step later.
        let mut slots: Vec<Slot> = requests[..2]
            .iter()
            .map(|request| executor.begin(request).unwrap().slot)
            .collect();
        executor.step(&slots).unwrap();
        slots.push(executor.begin(&requests[2]).unwrap().slot);
        executor.step(&slots).unwrap();
        executor.step(&slots).unwrap();
        executor.step(&slots[2..]).unwrap();
        let together: Vec<Pixels> = slots
            .iter()
            .map(|&slot| executor.decode(slot).unwrap())
            .collect();
        assert_eq!(together, alone, "{shape}");
    }
}

#[test]
fn preview_is_an_eighth_of_the_size_and_changes_nothing() {
    let mut executor = executor(Shape::Tiny);
    let undisturbed = image(&mut executor, &request("a cat", 1));
    let begun = executor.begin(&request("a cat", 1)).unwrap();
    let mut previews = Vec::new();
    for _ in 0..begun.steps {
        executor.step(&[begun.slot]).unwrap();
        previews.push(executor.preview(begun.slot).unwrap());
    }
    assert!(
        previews
            .iter()
            .all(|preview| (preview.width(), preview.height()) == (10, 6))
    );
    assert_ne!(previews[0], previews[2]);
    assert_eq!(executor.decode(begun.slot).unwrap(), undisturbed);
}

#[test]
fn begin_tells_how_many_tokens_there_are_and_whether_the_prompt_was_cut() {
    let mut executor = executor(Shape::Tiny);
    let short = executor.begin(&request("x", 1)).unwrap();
    assert_eq!(
        (short.steps, short.prompt_tokens, short.truncated),
        (3, 9, false)
    );
    let long = executor.begin(&request(&"x".repeat(600), 1)).unwrap();
    assert_eq!((long.prompt_tokens, long.truncated), (512, true));
}

#[test]
fn refused_request_takes_no_slot() {
    let mut executor = executor(Shape::Tiny);
    let mut wrong = request("a cat", 1);
    wrong.width = 100;
    let error = executor.begin(&wrong).unwrap_err();
    assert!(
        matches!(error, ExecutorError::InvalidRequest { field: "width", .. }),
        "{error}"
    );
    assert_eq!(executor.begin(&request("a cat", 1)).unwrap().slot, Slot(0));
}

#[test]
fn condition_images_change_an_omni_models_image_alone() {
    let grey = |level| Arc::new(Pixels::new(64, 80, vec![level; 64 * 80 * 3]).unwrap());
    let mut omni = executor(Shape::Omni);
    let alone = image(&mut omni, &request("a cat", 1));
    let mut with = request("a cat", 1);
    with.references = vec![grey(9)];
    let grey_one = image(&mut omni, &with);
    with.references.push(grey(200));
    let both = image(&mut omni, &with);
    assert!(alone != grey_one && grey_one != both);
    assert_eq!(image(&mut omni, &with), both);

    let error = executor(Shape::Tiny).begin(&with).unwrap_err();
    assert!(
        matches!(
            error,
            ExecutorError::InvalidRequest {
                field: "references",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("no SigLIP"), "{error}");
}

#[test]
fn condition_images_that_diffusers_refuses_are_refused() {
    let mut omni = executor(Shape::Omni);
    for (width, height, reason) in [
        (63, 64, "at least 64"),
        (64, 513, "at most 8 times"),
        (3000, 400, "ask for a larger one"),
    ] {
        let mut wrong = request("a cat", 1);
        (wrong.width, wrong.height) = (32, 32);
        let bytes = width as usize * height as usize * 3;
        wrong.references = vec![Arc::new(
            Pixels::new(width, height, vec![0; bytes]).unwrap(),
        )];
        let error = omni.begin(&wrong).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let mut start = request("a cat", 1);
    start.init = Some(InitImage {
        pixels: Arc::new(Pixels::new(80, 48, vec![0; 80 * 48 * 3]).unwrap()),
        strength: 0.5,
        mask: None,
    });
    let error = omni.begin(&start).unwrap_err();
    assert!(
        matches!(error, ExecutorError::InvalidRequest { field: "image", .. }),
        "{error}"
    );
}

#[test]
fn slots_that_are_not_taken_or_have_no_step_left_are_errors() {
    let mut executor = executor(Shape::Tiny);
    assert!(matches!(
        executor.step(&[Slot(7)]),
        Err(ExecutorError::Failed(_))
    ));
    let slot = executor.begin(&request("a cat", 1)).unwrap().slot;
    executor.step(&[slot]).unwrap();
    executor.step(&[slot]).unwrap();
    executor.step(&[slot]).unwrap();
    assert_eq!(
        executor.step(&[slot]),
        Err(ExecutorError::Failed("slot 0 has no step left".to_owned()))
    );
    executor.release(slot);
    executor.release(slot);
    assert!(executor.decode(slot).is_err());
}

fn following(form: Refiner) -> CandleExecutor {
    let dir = tempfile::tempdir().unwrap();
    make_control_net(dir.path(), Shape::Tiny, form, 3).unwrap();
    let model = tempfile::tempdir().unwrap();
    make_model(model.path(), Shape::Tiny, 3).unwrap();
    let checkpoint = Checkpoint::open(model.path()).unwrap();
    let control_net = ControlNet::open(dir.path(), checkpoint.transformer()).unwrap();
    let executor = CandleExecutor::load(&checkpoint).unwrap();
    executor.with_control_net(&control_net).unwrap()
}

fn pixels() -> Arc<Pixels> {
    let levels = (0..80 * 48 * 3).map(|at| (at % 251) as u8).collect();
    Arc::new(Pixels::new(80, 48, levels).unwrap())
}

fn followed(scale: f32) -> ImageRequest {
    ImageRequest {
        control: Some(Control {
            pixels: pixels(),
            conditioning_scale: scale,
        }),
        ..request("a cat", 1)
    }
}

#[test]
fn control_image_without_a_control_net_is_refused_with_what_to_do() {
    let error = executor(Shape::Tiny).begin(&followed(0.75)).unwrap_err();
    let ExecutorError::InvalidRequest { field, message } = error else {
        panic!("{error}");
    };
    assert_eq!(field, "control_image");
    assert!(message.contains("--controlnet"), "{message}");
}

#[test]
fn control_image_changes_the_image_and_a_scale_of_0_does_not() {
    let mut executor = following(Refiner::Shared);
    let alone = image(&mut executor, &request("a cat", 1));
    assert_eq!(image(&mut executor, &followed(0.0)), alone);
    let half = image(&mut executor, &followed(0.5));
    assert_ne!(half, alone);
    assert_ne!(image(&mut executor, &followed(1.0)), half);
    // Nothing of it stays for the next request.
    assert_eq!(image(&mut executor, &request("a cat", 1)), alone);
}

#[test]
fn requests_with_and_without_control_image_step_together() {
    let mut executor = following(Refiner::Controlled);
    let requests = [followed(0.75), request("a cat", 1)];
    let alone = requests.each_ref().map(|wish| image(&mut executor, wish));
    let slots = requests.map(|wish| executor.begin(&wish).unwrap().slot);
    for _ in 0..3 {
        executor.step(&slots).unwrap();
    }
    assert_eq!(slots.map(|slot| executor.decode(slot).unwrap()), alone);
}

#[test]
fn control_net_without_channels_for_a_mask_does_not_inpaint() {
    let wish = ImageRequest {
        init: Some(InitImage {
            pixels: pixels(),
            strength: 1.0,
            mask: Some(pixels()),
        }),
        ..followed(0.75)
    };
    let error = following(Refiner::Own).begin(&wish).unwrap_err();
    assert!(error.to_string().contains("reads 16 channels"), "{error}");
    assert_eq!(following(Refiner::Shared).begin(&wish).unwrap().steps, 3);
}
