"""Small LoRA files in every layout that diffusers reads, and pipelines into which diffusers merged them."""

import copy

import torch
from diffusers import ZImagePipeline
from safetensors.torch import save_file

ATTENTION = ["layers.0.attention.to_q", "layers.0.attention.to_k", "layers.0.attention.to_v",
             "layers.0.attention.to_out.0"]
MODULES = [*ATTENTION, "layers.1.feed_forward.w1", "layers.1.feed_forward.w2", "layers.1.adaLN_modulation.0",
           "noise_refiner.0.feed_forward.w3", "context_refiner.0.attention.to_k", "cap_embedder.1", "t_embedder.mlp.0",
           "all_x_embedder.2-1", "all_final_layer.2-1.linear"]


class Factors:
    """Random factors for a model's modules."""

    def __init__(self, transformer, seed):
        self.modules = dict(transformer.named_modules())
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def random(self, rows, columns):
        # float16 halves the files, and is what most of them have.
        return (torch.randn(rows, columns, generator=self.generator) * 0.3).half()

    def pair(self, module, rank=2, times=1):
        """down and up of a module, or of several below each other."""
        linear = self.modules[module]
        return self.random(rank, linear.in_features), self.random(linear.out_features * times, rank)


def alpha(value):
    return torch.tensor(value, dtype=torch.float16)


def diffusers(factors):
    """As `save_lora_weights` writes it without a configuration: the scale is 1. One module has another rank."""
    tensors = {}
    for module in MODULES:
        down, up = factors.pair(module, 3 if module == "cap_embedder.1" else 2)
        tensors |= {f"transformer.{module}.lora_A.weight": down, f"transformer.{module}.lora_B.weight": up}
    return tensors


def peft(factors):
    """As PEFT names its adapter's weights inside a model."""
    tensors = {}
    for module in ATTENTION:
        down, up = factors.pair(module)
        tensors |= {f"{module}.lora_A.default.weight": down, f"{module}.lora_B.default.weight": up}
    return tensors


def comfyui(factors):
    """As ai-toolkit writes for ComfyUI; other programs write alpha too."""
    tensors = {}
    for module in MODULES[2:6]:
        down, up = factors.pair(module)
        name = f"diffusion_model.{module}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.alpha": alpha(1.0)}
    return tensors


def bare(factors):
    """Names of the first release without a prefix: down, up and alpha."""
    tensors = {}
    for module in ("layers.0.attention.to_out.0", "layers.1.feed_forward.w2"):
        down, up = factors.pair(module)
        name = module.replace(".to_out.0", ".out")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha(4.0)}
    return tensors


def kohya(factors):
    """As sd-scripts writes: q, k and v are one module, and names have no dots."""
    tensors = {}
    for module in MODULES[1:]:
        name, times = module, 1
        if module in ATTENTION[1:3]:
            if module != ATTENTION[1]:
                continue
            name, times = "layers.0.attention.qkv", 3
        down, up = factors.pair(module, times=times)
        name = "lora_unet_" + name.replace(".to_out.0", ".out").replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha(1.0)}
    return tensors


def dots(factors):
    """With dots within the names of parts and projections, and with modules twice."""
    tensors = {}
    for module in ATTENTION:
        down, up = factors.pair(module)
        projection = module if ".to_out" in module else module.replace(".to_", ".to.")
        name = f"diffusion_model.{projection}"
        tensors |= {f"{name}.lora.down.weight": down, f"{name}.lora.up.weight": up}
    for name, times in (("qkv", 3), ("out", 1)):
        down, up = factors.pair("layers.0.attention.to_q", times=times)
        name = f"diffusion_model.layers.0.attention.{name}"
        tensors |= {f"{name}.lora.down.weight": down, f"{name}.lora.up.weight": up}
    return tensors


def lokr(factors):
    """As ai-toolkit writes: Kronecker products, whose right factors are divided."""
    tensors = {}
    for module in [*ATTENTION[:2], "layers.1.feed_forward.w1"]:
        linear = factors.modules[module]
        rows, columns = linear.out_features // 2, linear.in_features // 2
        name = f"diffusion_model.{module}"
        tensors |= {f"{name}.lokr_w1": factors.random(2, 2), f"{name}.alpha": alpha(6.0)}
        tensors |= {f"{name}.lokr_w2_a": factors.random(rows, 3), f"{name}.lokr_w2_b": factors.random(3, columns)}
    return tensors


LAYOUTS = [diffusers, peft, comfyui, bare, kohya, dots, lokr]
CONFIGURATION = ('{"transformer.r": 2, "transformer.lora_alpha": 3, "transformer.target_modules": '
                 '["layers.0.attention.to_q", "layers.0.attention.to_k"], "transformer.alpha_pattern": '
                 '{"layers.0.attention.to_k": 1}}')


def write(folder, shape, transformer):
    """Writes the model's files."""
    folder.mkdir(exist_ok=True)
    for seed, layout in enumerate(LAYOUTS):
        save_file(layout(Factors(transformer, seed)), folder / f"{shape}-{layout.__name__}.safetensors")
    factors = Factors(transformer, 100)
    tensors = {}
    for module in ATTENTION[:2]:
        down, up = factors.pair(module)
        tensors |= {f"transformer.{module}.lora_A.weight": down, f"transformer.{module}.lora_B.weight": up}
    save_file(tensors, folder / f"{shape}-metadata.safetensors", {"lora_adapter_metadata": CONFIGURATION})


def merged(pipe, folder, shape, loras):
    """The pipeline, with a transformer of its own when there are files to merge, one after the other."""
    if not loras:
        return pipe
    pipe = ZImagePipeline(**pipe.components | {"transformer": copy.deepcopy(pipe.transformer)})
    before = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    for name, scale in loras:
        pipe.load_lora_weights(folder / f"{shape}-{name}.safetensors", adapter_name=name)
        pipe.fuse_lora(adapter_names=[name], lora_scale=scale)
        pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert before.keys() == after.keys() and changed, (before.keys() ^ after.keys(), changed)
    print(loras, len(changed), "changed")
    return pipe
