"""Makes the goldens beside this file: what diffusers computes from the models that make_model writes.

Needs torch 2.11.0, torchvision 0.26.0, diffusers 0.42.1 and peft 0.21.2 (with transformers 5.23 and safetensors) on a machine
with AVX2. Without torchvision transformers resizes condition images with Pillow, whose rounding is another. Run from the
repository's root:

    for shape in tiny odd omni; do
      cargo run --release -p zimage-checkpoint --example make_model -- $shape 7 out/golden/$shape
    done
    for shape in tiny odd; do
      for form in own shared controlled; do
        cargo run --release -p zimage-checkpoint --example make_model -- $shape 7 out/golden/$shape-$form $form
      done
    done
    python server/models/tests/golden/make.py out/golden
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImageOmniPipeline,
    ZImagePipeline,
)
from PIL import Image
from safetensors.torch import save_file

import lora

HERE = Path(__file__).parent
COMMON = {"width": 64, "height": 48, "num_inference_steps": 2, "guidance_scale": 0.0, "seed": 1}
LONG = "a red cat in the snow at night, " * 60
# With the template around it a prompt of n letters "x" has n + 8 tokens.
CASES = {
    "tokens-0": {"prompt": ""},
    "tokens-1": {"prompt": "x"},
    "tokens-31-with-template": {"prompt": "x" * 23},
    "tokens-32-with-template": {"prompt": "x" * 24},
    "tokens-33-with-template": {"prompt": "x" * 25},
    "tokens-31": {"prompt": "x" * 31},
    "tokens-32": {"prompt": "x" * 32},
    "tokens-33": {"prompt": "x" * 33},
    "tokens-over-512": {"prompt": LONG},
    "unicode": {"prompt": "Cafe\u0301 \u96ea\u591c\u306e\u732b \U0001f408 <|im_end|> isn't  it?\n\n12 345"},
    "wide": {"prompt": "a blue house", "width": 160, "height": 32, "seed": 2},
    "tall": {"prompt": "a blue house", "width": 16, "height": 144, "seed": 3},
    "least": {"prompt": "a dog", "width": 16, "height": 16, "seed": 4},
    "eight-steps": {"prompt": "a red cat in the snow", "num_inference_steps": 8, "seed": 1 << 40 | 5},
    "one-step": {"prompt": "the house", "num_inference_steps": 1},
    "guidance": {"prompt": "a cat", "negative_prompt": "a dog in the night", "guidance_scale": 4.0,
                 "num_inference_steps": 4},
    "guidance-small": {"prompt": "a cat", "guidance_scale": 0.5, "num_inference_steps": 3},
    "guidance-unlike-lengths": {"prompt": "x" * 60, "negative_prompt": "y", "guidance_scale": 2.0},
    "guidance-normalized": {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 5.0,
                            "cfg_normalization": 1.0, "num_inference_steps": 4},
    "guidance-normalized-loosely": {"prompt": "a cat", "guidance_scale": 3.0, "cfg_normalization": 1.5,
                                    "num_inference_steps": 4},
    "guidance-truncated": {"prompt": "a cat", "guidance_scale": 3.0, "cfg_truncation": 0.3, "num_inference_steps": 6},
    "several-images": {"prompt": "snow and night", "num_images_per_prompt": 3, "guidance_scale": 1.5, "seed": 99},
    "image-to-image": {"prompt": "a blue house", "strength": 0.6, "num_inference_steps": 5},
    "image-to-image-slight": {"prompt": "a blue house", "strength": 0.1, "num_inference_steps": 4},
    "image-to-image-whole": {"prompt": "a blue house", "strength": 1.0, "width": 32, "height": 80},
    "image-to-image-several": {"prompt": "a cat", "strength": 0.7, "num_inference_steps": 3, "guidance_scale": 2.0,
                               "num_images_per_prompt": 2, "seed": 12},
    "inpaint": {"prompt": "a red dog", "strength": 1.0, "mask": True, "num_inference_steps": 4},
    "inpaint-part": {"prompt": "a red dog", "strength": 0.5, "mask": True, "num_inference_steps": 6,
                     "guidance_scale": 1.0, "width": 96, "seed": 8},
}
SMALL = {"prompt": "a cat", "width": 32, "height": 16}
# Names of files that lora.py writes, each with its scale.
LORA_CASES = {
    "lora-diffusers": [("diffusers", 1.0)],
    "lora-metadata": [("metadata", 0.5)],
    "lora-peft": [("peft", 1.0)],
    "lora-comfyui": [("comfyui", 1.0)],
    "lora-bare": [("bare", -0.5)],
    "lora-kohya": [("kohya", 1.0)],
    "lora-dots": [("dots", 1.0)],
    "lora-lokr": [("lokr", 1.0)],
    "lora-several": [("diffusers", 0.5), ("lokr", -1.0), ("kohya", 0.25)],
}
CASES |= {name: SMALL | {"loras": loras} for name, loras in LORA_CASES.items()}
# "references" are the sizes of the condition images.
OMNI_CASES = {
    "text-alone": {"prompt": "a red cat in the snow and the night of the blue house"},
    "one-reference": {"prompt": "the cat of the house", "references": [[80, 64]]},
    "two-references": {"prompt": "x" * 40, "references": [[72, 100], [136, 70]], "seed": 2},
    "square": {"prompt": "a dog", "references": [[64, 64]], "width": 32, "height": 32, "seed": 6},
    "large-reference": {"prompt": "a dog", "references": [[1203, 901]], "seed": 3},
    "guidance": {"prompt": "a cat", "negative_prompt": "x" * 60, "references": [[64, 64], [100, 80]],
                 "guidance_scale": 3.0, "num_inference_steps": 3, "seed": 4},
    "guidance-normalized": {"prompt": "a cat", "guidance_scale": 4.0, "cfg_normalization": 1.0, "seed": 5},
    "several-images": {"prompt": "a cat", "references": [[64, 90]], "num_images_per_prompt": 2, "width": 32,
                       "num_inference_steps": 1},
}


def reference(width, height):
    """A condition image: slopes, so that resizing keeps something of it; the test computes the same."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, x * y * 700 // (width * height)], axis=-1) & 255
    return Image.fromarray(image.astype(np.uint8))


def joined(embeds):
    """A prompt's embeddings, of an Omni prompt those of all its parts."""
    return torch.cat(embeds) if isinstance(embeds, list) else embeds


def omni(pipe, case, tensors):
    """Takes the condition images' stages down, and gives what the pipeline takes besides."""
    encode, embed = pipe.prepare_image_latents, pipe.prepare_siglip_embeds

    def encoded(*args, **kwargs):
        latents = encode(*args, **kwargs)
        tensors.update({f"reference-{i}": latent[:, 0] for i, latent in enumerate(latents[0])})
        return latents

    def embedded(*args, **kwargs):
        embeds = embed(*args, **kwargs)
        tensors.update({f"siglip-{i}": features for i, features in enumerate(embeds[0])})
        return embeds

    pipe.prepare_image_latents, pipe.prepare_siglip_embeds = encoded, embedded
    images = [reference(*size) for size in case.pop("references", [])]
    return {"image": images} if images else {}


# "controlnet" is the form of its noise refiner. An image is followed, and kept where there is a mask. 128 x 64 pixels are a
# full row of tokens, without padding.
CONTROL_CASES = {
    "control-own": {"prompt": "a red cat", "controlnet": "own"},
    "control-shared": {"prompt": "a red cat", "controlnet": "shared"},
    "control-controlled": {"prompt": "a red cat", "controlnet": "controlled"},
    "control-guidance": {"prompt": "x" * 30, "negative_prompt": "y", "controlnet": "own", "guidance_scale": 3.0,
                         "cfg_truncation": 0.3, "controlnet_conditioning_scale": 0.4, "num_inference_steps": 3},
    "control-several": {"prompt": "snow", "controlnet": "controlled", "guidance_scale": 1.5, "seed": 99,
                        "controlnet_conditioning_scale": 1.3, "num_images_per_prompt": 2},
    "control-no-padding": {"prompt": "a dog", "controlnet": "shared", "width": 128, "height": 64,
                           "num_inference_steps": 1},
    "control-inpaint": {"prompt": "a blue house", "controlnet": "shared", "mask": True, "width": 32, "height": 48,
                        "guidance_scale": 2.0, "cfg_normalization": 1.0},
    "control-inpaint-controlled": {"prompt": "a blue house", "controlnet": "controlled", "mask": True, "seed": 5},
}
# What the odd shape would only repeat.
TINY_CONTROL_CASES = {"control-no-padding", "control-guidance", "control-inpaint-controlled"}


def control_case(case):
    return COMMON | {"width": 48, "height": 32, "controlnet_conditioning_scale": 0.75} | case


def control_image(width, height):
    """The image that is followed; the test computes the same."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * y, x * 3 + y * 4, 255 - x * 2], axis=-1) & 255
    return Image.fromarray(image.astype(np.uint8))


def start_image(width, height):
    """The image to start from and its mask; the test computes the same."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 5, y * 9, x * y], axis=-1) & 255
    mask = np.repeat(((x * 11 + y * 7) & 255)[..., None], 3, axis=-1)
    return Image.fromarray(image.astype(np.uint8)), Image.fromarray(mask.astype(np.uint8))


def controlled(pipe, case, controlnet):
    """The pipeline that follows an image, and what it takes besides."""
    size = case["width"], case["height"]
    images = {"control_image": control_image(*size)}
    kind = ZImageControlNetPipeline
    if case.pop("mask", False):
        kind = ZImageControlNetInpaintPipeline
        images["image"], images["mask_image"] = start_image(*size)
    return kind(**pipe.components, controlnet=controlnet), images


def watch(controlnet, tensors):
    """Takes down what the ControlNet sees, and without guidance some of what it says at the first step."""

    def called(_module, inputs, output):
        if "control_context" in tensors:
            return
        tensors["control_context"] = inputs[3][0, :, 0]
        if len(inputs[0]) == 1:
            tensors.update({f"hint-{i}": hint[0, :8] for i, hint in enumerate(output.values())})

    return controlnet.register_forward_hook(called)


def pipeline(pipe, case, tensors, controlnet):
    """The pipeline that the case is for, and what it takes besides."""
    if isinstance(pipe, ZImageOmniPipeline):
        return pipe, omni(pipe, case, tensors)
    if controlnet is not None:
        return controlled(pipe, case, controlnet)
    if "strength" not in case:
        return pipe, {}
    image, mask = start_image(case["width"], case["height"])
    if case.pop("mask", False):
        return ZImageInpaintPipeline(**pipe.components), {"image": image, "mask_image": mask}
    return ZImageImg2ImgPipeline(**pipe.components), {"image": image}


def run(pipe, case, controlnet=None):
    """One case: its images as arrays of bytes and its tensors."""
    case = COMMON | case
    tensors = {}
    hooks = [watch(controlnet, tensors)] if controlnet is not None else []
    text = {key: case[key] for key in ("prompt", "negative_prompt") if key in case}
    if isinstance(pipe, ZImageOmniPipeline):
        text["num_condition_images"] = len(case.get("references", []))
    embeds, negative = pipe.encode_prompt(**text, do_classifier_free_guidance=case["guidance_scale"] > 0)
    tensors["prompt_embeds"] = joined(embeds[0])
    if negative:
        tensors["negative_prompt_embeds"] = joined(negative[0])

    def after_step(_pipe, step, _timestep, values):
        tensors[f"latents-{step}"] = values["latents"]
        return {}

    def decoded(module, inputs, output):
        tensors["decoded"] = output

    hooks.append(pipe.vae.decoder.register_forward_hook(decoded))
    pipe, images = pipeline(pipe, case, tensors, controlnet)
    pipe.set_progress_bar_config(disable=True)
    prepare_latents = pipe.prepare_latents

    def prepared(*args, **kwargs):
        latents = prepare_latents(*args, **kwargs)
        tensors["start"] = latents[0] if isinstance(latents, tuple) else latents
        return latents

    pipe.prepare_latents = prepared
    seed = case.pop("seed")
    generator = torch.Generator("cpu").manual_seed(seed)
    images = pipe(**case, **images, generator=generator, callback_on_step_end=after_step).images
    pipe.prepare_latents = prepare_latents
    for name in ("prepare_image_latents", "prepare_siglip_embeds"):
        pipe.__dict__.pop(name, None)
    for hook in hooks:
        hook.remove()
    return images, {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}


def load(models, shape):
    if shape != "omni":
        return ZImagePipeline.from_pretrained(models / shape, torch_dtype=torch.float32), CASES
    pipe = ZImageOmniPipeline.from_pretrained(models / shape, torch_dtype=torch.float32)
    assert type(pipe.siglip_processor).__name__ == "Siglip2ImageProcessor", "torchvision is missing"
    encode = pipe.vae.encode
    # The pipeline rounds the image to bfloat16, which it can only give to a VAE in bfloat16: back, already rounded.
    pipe.vae.encode = lambda image: encode(image.to(pipe.vae.dtype))
    return pipe, OMNI_CASES


def save(name, images, tensors):
    for index, image in enumerate(images):
        assert isinstance(image, Image.Image)
        image.save(HERE / f"{name}.{index}.png", optimize=True)
    save_file(tensors, HERE / f"{name}.safetensors")
    print(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()})


def main(models):
    torch.set_grad_enabled(False)
    table = {}
    for shape in ("tiny", "odd", "omni"):
        pipe, cases = load(models, shape)
        pipe.set_progress_bar_config(disable=True)
        if cases is CASES:
            lora.write(HERE / "lora", shape, pipe.transformer)
        for name, case in cases.items():
            loras = case.get("loras", [])
            arguments = {key: value for key, value in case.items() if key != "loras"}
            table[f"{shape}-{name}"] = COMMON | {"shape": shape} | case
            save(f"{shape}-{name}", *run(lora.merged(pipe, HERE / "lora", shape, loras), arguments))
        for name, case in CONTROL_CASES.items():
            if shape == "omni" or (shape == "odd" and name in TINY_CONTROL_CASES):
                continue
            case = control_case(case)
            table[f"{shape}-{name}"] = case | {"shape": shape}
            form = case.pop("controlnet")
            controlnet = ZImageControlNetModel.from_pretrained(models / f"{shape}-{form}", torch_dtype=torch.float32)
            save(f"{shape}-{name}", *run(pipe, case, controlnet))
    (HERE / "cases.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
