#!/usr/bin/env python3
"""How far each step's latents are from float32: diffusers' own bfloat16, and the CUDA engine's.

    zimage-gpu-tests --latents MODEL FOLDER     writes the engine's latents after each step
    truth.py --model MODEL --latents FOLDER     compares them; the prompt and the sizes are in the folder
"""

import argparse
import json
from pathlib import Path

import numpy
import torch
from diffusers import ZImagePipeline


def latents_of_each_step(pipe, request):
    steps = []

    def keep(pipe, step, timestep, values):
        steps.append(values["latents"].float().cpu())
        return values

    pipe(
        prompt=request["prompt"],
        width=request["width"],
        height=request["height"],
        num_inference_steps=request["num_inference_steps"],
        guidance_scale=0.0,
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
        output_type="latent",
        callback_on_step_end=keep,
    )
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--latents", type=Path, required=True)
    args = parser.parse_args()
    request = json.loads((args.latents / "request.json").read_text())
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

    # In bfloat16 first, as it is stored; then the same weights in float32.
    pipe = ZImagePipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16).to("cuda")
    half = latents_of_each_step(pipe, request)
    whole = latents_of_each_step(pipe.to(torch.float32), request)
    worst = 0.0
    for step, (theirs, truth) in enumerate(zip(half, whole)):
        ours = numpy.fromfile(args.latents / f"{step}.f32", dtype=numpy.float32)
        ours = torch.from_numpy(ours).reshape(truth.shape)
        distance = lambda latents: ((latents - truth).norm() / truth.norm()).item()
        ratio = distance(ours) / distance(theirs)
        worst = max(worst, ratio)
        print(f"step {step}: engine {distance(ours):.2e}, diffusers in bfloat16 {distance(theirs):.2e}, ratio {ratio:.2f}")
    print(f"largest ratio {worst:.2f}; at most 1.1 is right")
    raise SystemExit(worst > 1.1)


if __name__ == "__main__":
    main()
