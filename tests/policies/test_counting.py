"""What `flowgrpo plan --measure` counts without memory is what autograd keeps of real tensors."""

import json

import diffusers
import pytest
import torch
from torch import nn

from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.policies import Activations, LoraAdapter, Work, tiny
from flowgrpo.policies._counting import GPU, passing_bytes, saved_bytes, shapes_only, without_memory
from flowgrpo.policies._memory import passing, training
from flowgrpo.policies._weights import attach
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, ModelSize
from flowgrpo.policies.diffusers._inputs import inputs
from flowgrpo.policies.diffusers._measure import activations, measured_size
from flowgrpo.policies.diffusers._memory import memory
from flowgrpo.policies.masked import LanguageSize, MaskedConfig
from flowgrpo.policies.masked.transformer import MiniMdlm, MiniMdlmConfig
from flowgrpo.sampling.kernels.orders import LowConfidence

HEADS, LAYERS, TEXT = 2, 2, 16
LORA = AttentionLora(rank=4)


def sd3(width):
    heads = {"attention_head_dim": width // HEADS, "num_attention_heads": HEADS, "caption_projection_dim": width}
    return {
        "_class_name": "SD3Transformer2DModel",
        **{"sample_size": 32, "num_layers": LAYERS, "joint_attention_dim": 32, "pooled_projection_dim": 8, "qk_norm": "rms_norm"},
        **{"dual_attention_layers": [0], "pos_embed_max_size": 32, **heads},
    }


def flux(width):
    head = width // HEADS
    return {
        "_class_name": "FluxTransformer2DModel",
        **{"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": head},
        **{"num_attention_heads": HEADS, "joint_attention_dim": 32, "pooled_projection_dim": 8},
        "axes_dims_rope": [head // 4, head // 4, head // 2],
    }


def qwen(width):
    head = width // HEADS
    return {
        "_class_name": "QwenImageTransformer2DModel",
        **{"in_channels": 16, "out_channels": 4, "num_layers": LAYERS, "attention_head_dim": head},
        **{"num_attention_heads": HEADS, "joint_attention_dim": 32, "axes_dims_rope": [head // 4, head // 4, head // 2]},
    }


def wan(width):
    return {
        "_class_name": "WanTransformer3DModel",
        **{"patch_size": [1, 2, 2], "num_attention_heads": HEADS, "attention_head_dim": width // HEADS, "ffn_dim": 6 * width},
        **{"in_channels": 4, "out_channels": 4, "text_dim": 32, "freq_dim": 32, "num_layers": LAYERS},
    }


def z_image(width):
    head = width // HEADS
    return {
        "_class_name": "ZImageTransformer2DModel",
        **{"dim": width, "n_layers": LAYERS, "n_refiner_layers": 1, "n_heads": HEADS, "n_kv_heads": HEADS, "in_channels": 4},
        **{"cap_feat_dim": 32, "axes_dims": [head // 4, head // 4, head // 2], "axes_lens": [64, 32, 32]},
    }


def sana(width):
    return {
        "_class_name": "SanaTransformer2DModel",
        **{"in_channels": 4, "out_channels": 4, "num_attention_heads": width // 16, "attention_head_dim": 16},
        **{"num_cross_attention_heads": HEADS, "cross_attention_head_dim": width // HEADS, "cross_attention_dim": width},
        **{"num_layers": LAYERS, "caption_channels": 32, "sample_size": 16},
    }


def unet(width):
    return {
        "_class_name": "UNet2DConditionModel",
        **{"sample_size": 8, "block_out_channels": [width // 2, width], "layers_per_block": 1, "attention_head_dim": [2, 4]},
        **{"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
        **{"transformer_layers_per_block": 1, "cross_attention_dim": 32, "use_linear_projection": True},
        **{"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 56},
    }


DENOISERS = {"sd3": sd3, "flux": flux, "qwen": qwen, "wan": wan, "z-image": z_image, "sana": sana, "sdxl": unet}
GRIDS = {"wan": (2, 8, 8), "sana": (1, 16, 16), "sdxl": (1, 16, 16)}


def real(geometry, whole, checkpointing=False):
    """With memory, on the CPU."""
    torch.manual_seed(0)
    module = getattr(diffusers, geometry["_class_name"]).from_config(geometry)
    if whole:
        module.requires_grad_(True).eval()
    else:
        attach({"denoiser": module}, LORA, 0)
    if checkpointing:
        module.enable_gradient_checkpointing()
    return module


def added(count, module, grid):
    """By two more rows: tables of positions, which all rows share, aside."""
    _, fewer, more = (count(module, inputs(module, rows, grid, TEXT)) for rows in (1, 2, 4))
    return more - fewer


@pytest.mark.parametrize(("name", "width"), [(name, 64 << i % 2) for i, name in enumerate(DENOISERS)])
def test_activations_of_every_width_are_those_of_real_tensors(name, width):
    geometry, grid = DENOISERS[name](width), GRIDS.get(name, (1, 12, 12))
    unit = width * (grid[0] * grid[1] * grid[2] + TEXT)
    found = activations(geometry, grid, TEXT, unit, LAYERS, "fp32", LORA)
    for whole in (False, True):
        module = real(geometry, whole)
        assert training("fp32", 2 * unit, LAYERS, whole, False, found) == pytest.approx(added(saved_bytes, module, grid), rel=0.1)
    assert passing("fp32", 2 * unit, found) == pytest.approx(added(passing_bytes, module, grid), rel=0.1)


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_with_checkpointing_a_block_keeps_its_input(name):
    geometry, grid = DENOISERS[name](128), GRIDS.get(name, (1, 12, 12))
    unit = 128 * (grid[0] * grid[1] * grid[2] + TEXT)
    found = activations(geometry, grid, TEXT, unit, LAYERS, "fp32", LORA)
    module = real(geometry, whole=False, checkpointing=True)
    assert found.checkpointed * LAYERS * 2 * unit == pytest.approx(added(saved_bytes, module, grid), rel=0.1)


def test_a_gpus_numbers_are_estimated():
    """SD3.5-medium on one H200, 512 pixels, 8 pictures a batch, adapters of rank 32 under autocast and a reference:
    43.0 GiB at the peak of the update, 25.2 with `guidance_gradient` conditional, 13.9 of rollout and decoding (without T5)."""
    found = Activations(lora=57.1, whole=91.6, passing=24.7, checkpointed=2.1)
    tokens = 32 * 32 + 77 + 128
    size = {
        "denoiser": {"parameters": 2_243_171_520, "layers": 24, "width": 1536, "tokens": tokens, "activations": found},
        "encoders": {"parameters": 818_000_000, "width": 4096, "tokens": 205},
        "vae": {"parameters": 84_000_000, "width": 256},
    }
    call = {"height": 512, "width": 512, "guidance_scale": 4.5}
    config = DiffusersConfig(model="some/model", steps=10, dtype="bf16", call=call, size=ModelSize.model_validate(size))
    halves = config.model_copy(update={"guidance_gradient": "conditional"})
    work = Work(states=8, samples=8, referenced=True)
    whole, apart = ({phase: sum(parts.values()) / 2**30 for phase, parts in memory(c, work).items()} for c in (config, halves))
    assert whole["update"] == pytest.approx(43.0, rel=0.1) and apart["update"] == pytest.approx(25.2, rel=0.1)
    assert whole["decode"] == apart["decode"] == pytest.approx(13.9, rel=0.1)


def test_nothing_is_left_of_a_device_that_was_not_there():
    before = torch.is_autocast_enabled(GPU.type), torch.get_autocast_dtype(GPU.type)
    with shapes_only(torch.bfloat16, True) as mode, torch.device("meta"):
        module = nn.Linear(4, 4)
    with shapes_only(torch.bfloat16, True) as mode:
        made = without_memory(module, mode)
        assert made(torch.randn(2, 4)).dtype == torch.bfloat16 and made.weight.device == GPU
    assert (torch.is_autocast_enabled(GPU.type), torch.get_autocast_dtype(GPU.type)) == before
    assert torch.zeros(1).device.type == "cpu"


def test_plan_measures_a_model_on_this_disk_only(capsys):
    found = {}
    for options in ([], ["--measure"]):
        assert main(["plan", "mini/flow_grpo", "--json", *options]) == 0
        found[bool(options)] = json.loads(capsys.readouterr().out)["memory_bytes"]
    assert found[True]["update"].keys() == found[False]["update"].keys()
    same = {part: size for part, size in found[True]["update"].items() if part != "activations"}
    assert same == {part: size for part, size in found[False]["update"].items() if part != "activations"}
    assert found[True]["update"]["activations"] != found[False]["update"]["activations"]
    assert main(["plan", "sd3.5-medium/flow_grpo", "--measure"]) == 2
    assert "config files, which are not on this disk; leave it out" in capsys.readouterr().err


MEASURED = ["sd15", "pixart_sigma", "flux_kontext", "flux2", "z_image", "wan22", "ltx"]


def test_of_several_sizes_the_largest_is_measured():
    config = load_config("mini/flow_grpo").policy
    call = {key: value for key, value in config.call.items() if key not in ("height", "width")}
    several = config.model_copy(update={"call": {**call, "sizes": [[16, 32], [32, 32]]}})
    assert several.measured().size == config.measured().size


@pytest.mark.parametrize("name", MEASURED)
def test_pipelines_of_the_recipes_are_measured(name, tmp_path):
    entry = tiny.pipelines()[name]
    entry.build().save_pretrained(tmp_path)
    found = measured_size(DiffusersConfig(model=str(tmp_path), steps=4, call=entry.call)).denoiser.activations
    assert found.dtype == "fp32" and min(found.whole, found.lora) > found.checkpointed > 0 and found.passing > 0


def test_a_class_that_wants_other_inputs_is_refused(tmp_path):
    entry = tiny.pipelines()["glm_image"]
    entry.build().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^GlmImageTransformer2DModel can't be measured .*; leave --measure out$"):
        measured_size(DiffusersConfig(model=str(tmp_path), steps=4, call=entry.call))


@pytest.mark.parametrize("width", [32, 64, 128])
def test_a_language_model_of_every_width_is_measured(width, tmp_path):
    torch.manual_seed(0)
    MiniMdlm(MiniMdlmConfig(hidden_size=width, num_hidden_layers=LAYERS, num_attention_heads=HEADS)).save_pretrained(tmp_path)
    sampler = LowConfidence(temperature=0.0)
    config = MaskedConfig(model=str(tmp_path), steps=4, prompt_length=16, length=16, sampler=sampler)
    model = MiniMdlm.from_pretrained(tmp_path).eval()
    kept = [saved_bytes(model, {"input_ids": torch.zeros(rows, 32, dtype=torch.long)}) for rows in (2, 4)]
    size = config.measured().size
    assert (size.layers, size.width, size.ids) == (LAYERS, width, 20)
    estimated = training("fp32", 2 * 32 * width, LAYERS, True, False, size.activations)
    assert estimated == pytest.approx(kept[1] - kept[0], rel=0.1)
    smaller, larger = (config.measured().memory(Work(states=n, samples=n))["update"]["activations"] for n in (1, 2))
    assert larger == 2 * smaller


def test_a_language_model_of_the_hub_is_known_by_its_size():
    size = LanguageSize(layers=32, width=4096, ids=126464)
    lora = LoraAdapter(rank=128, targets=("q_proj", "v_proj"))
    sampler = LowConfidence(temperature=0.0)
    config = MaskedConfig(
        **{"model": "some/model", "parameters": 8_000_000_000, "size": size, "lora": lora, "sampler": sampler, "dtype": "bf16"},
        **{"steps": 4, "prompt_length": 256, "length": 256},
    )
    found = config.memory(Work(states=1, samples=1))["update"]
    assert found["trained weights"] == 4 * 32 * 2 * 2 * 4096 * 128
    logits = 3 * 4 * 256 * 126464
    assert found["activations"] == training("bf16", 512 * 4096, 32, False, False, Activations()) + logits
    with pytest.raises(UserError, match=r"config file, which is not on this disk; leave it out"):
        config.measured()


@pytest.mark.parametrize(("bits", "dtype"), [(16, "fp16"), (32, "fp32")])
def test_the_old_name_of_a_type_is_understood(bits, dtype):
    with pytest.warns(FutureWarning, match=f"bits: {bits} is now dtype: {dtype}"):
        assert Activations.model_validate({"lora": 55.0, "bits": bits}) == Activations(lora=55.0, dtype=dtype)
    with pytest.raises(ValueError, match="unknown key 'bits'"):
        Activations.model_validate({"bits": 8})
