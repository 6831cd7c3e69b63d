"""Makes the goldens beside this file: what diffusers computes from the models that make_model writes.

Needs torch 2.11.0 and diffusers 0.42.1 (with transformers and safetensors) on a machine with AVX2. Run from the
repository's root:

    for shape in tiny odd; do
      cargo run --release -p zimage-checkpoint --example make_model -- $shape 7 out/golden/$shape
    done
    python server/models/tests/golden/make.py out/golden
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import ZImagePipeline
from PIL import Image
from safetensors.torch import save_file

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
}


def run(pipe, case):
    """One case: its images as arrays of bytes and its tensors."""
    case = COMMON | case
    tensors = {}
    text = {key: case[key] for key in ("prompt", "negative_prompt") if key in case}
    embeds, negative = pipe.encode_prompt(**text, do_classifier_free_guidance=case["guidance_scale"] > 0)
    tensors["prompt_embeds"] = embeds[0]
    if negative:
        tensors["negative_prompt_embeds"] = negative[0]

    def after_step(_pipe, step, _timestep, values):
        tensors[f"latents-{step}"] = values["latents"]
        return {}

    def decoded(module, inputs, output):
        tensors["decoded"] = output

    hook = pipe.vae.decoder.register_forward_hook(decoded)
    seed = case.pop("seed")
    shape = (case.get("num_images_per_prompt", 1), 16, case["height"] // 8, case["width"] // 8)
    tensors["noise"] = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
    images = pipe(**case, generator=torch.Generator("cpu").manual_seed(seed), callback_on_step_end=after_step).images
    hook.remove()
    return images, {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}


def main(models):
    torch.set_grad_enabled(False)
    table = {}
    for shape in ("tiny", "odd"):
        pipe = ZImagePipeline.from_pretrained(models / shape, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        for name, case in CASES.items():
            images, tensors = run(pipe, case)
            name = f"{shape}-{name}"
            table[name] = COMMON | {"shape": shape} | case
            for index, image in enumerate(images):
                assert isinstance(image, Image.Image)
                image.save(HERE / f"{name}.{index}.png", optimize=True)
            save_file(tensors, HERE / f"{name}.safetensors")
            print(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    (HERE / "cases.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
