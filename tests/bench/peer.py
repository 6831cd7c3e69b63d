#!/usr/bin/env python3
"""What diffusers takes for the same work on the same GPU: random weights of a checkpoint's sizes, bfloat16.

The peer at its best: attention through cuDNN, the transformer's repeated blocks compiled, the VAE compiled in
channels-last memory. Its pipeline's loop, without noise, tokenizer and PNG; the text encoder is timed apart.

    peer.py --model DIR [--sizes 1024x1024,512x512]      (DIR: `zimage-server make-model --shape full --out DIR`)
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, ZImageTransformer2DModel


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder whose configurations give the sizes")
    parser.add_argument("--sizes", default="1024x1024,512x512")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--warm-up-seconds", type=float, default=25)
    return parser.parse_args()


def random_module(build):
    """A module whose weights are made on the GPU; what its constructor leaves empty becomes normal numbers."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        module = build()
    torch.set_default_dtype(torch.float32)
    for name, parameter in module.named_parameters():
        if "pad_token" in name:
            torch.nn.init.normal_(parameter)
    return module.eval().requires_grad_(False)


def config(model, part):
    return json.loads((model / part / "config.json").read_text())


def timed(work):
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def samples(work, args):
    began = time.perf_counter()
    while time.perf_counter() - began < args.warm_up_seconds:
        timed(work)
    return [timed(work) for _ in range(args.requests)]


def text_encoder(args):
    sizes = transformers.Qwen3Config(**config(args.model, "text_encoder"))
    encoder = random_module(lambda: transformers.Qwen3Model(sizes))
    ids = torch.randint(0, sizes.vocab_size, (1, args.tokens), device="cuda")
    mask = torch.ones_like(ids)
    work = lambda: encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
    for _ in range(5):
        timed(work)
    return statistics.median(timed(work) for _ in range(20))


def main():
    args = parse()
    torch.set_grad_enabled(False)
    text = text_encoder(args)
    torch.cuda.empty_cache()

    transformer = random_module(lambda: ZImageTransformer2DModel.from_config(config(args.model, "transformer")))
    transformer.set_attention_backend("_native_cudnn")
    transformer.compile_repeated_blocks(fullgraph=True)
    vae = random_module(lambda: AutoencoderKL.from_config(config(args.model, "vae")))
    vae.to(memory_format=torch.channels_last)
    vae.decode = torch.compile(vae.decode)

    hidden = transformer.config.cap_feat_dim
    caption = [torch.randn(args.tokens, hidden, device="cuda", dtype=torch.bfloat16)]
    sigmas = torch.linspace(1, 0, args.steps + 1).tolist()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(f"text encoder, {args.tokens} tokens: {1e3 * text:.1f} ms")
    for size in args.sizes.split(","):
        width, height = (int(side) for side in size.split("x"))
        noise = torch.randn(1, transformer.config.in_channels, height // 8, width // 8, device="cuda")

        def denoise():
            latents = noise
            for now, after in zip(sigmas, sigmas[1:]):
                inputs = list(latents.to(torch.bfloat16).unsqueeze(2).unbind(0))
                t = torch.full((1,), 1 - now, device="cuda")
                prediction = transformer(inputs, t, caption, return_dict=False)[0][0].squeeze(1).float()
                latents = latents - (after - now) * prediction
            return latents

        def image():
            latents = denoise().to(torch.bfloat16).to(memory_format=torch.channels_last)
            pixels = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
            return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

        times = samples(image, args)
        steps = samples(denoise, argparse.Namespace(warm_up_seconds=1, requests=5))
        p50 = statistics.median(times)
        print(
            f"{size}: {1e3 * p50:.1f} ms p50, {1e3 * sorted(times)[int(0.99 * len(times))]:.1f} p99,"
            f" {1e3 * statistics.pstdev(times):.1f} standard deviation; {args.steps} forwards"
            f" {1e3 * statistics.median(steps):.1f} ms; with the text encoder {1e3 * (p50 + text):.1f} ms;"
            f" peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        )


if __name__ == "__main__":
    main()
