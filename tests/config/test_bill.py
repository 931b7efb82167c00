"""What `flowgrpo plan` says of memory: against the tensors that are really there, and what it advises."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, UNet2DConditionModel

from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of, memory_of, peak
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import Activations, Work, tiny
from flowgrpo.policies._counting import Alive, saved_bytes, weights
from flowgrpo.policies._memory import count_parameters, lora_parameters, training
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, ModelSize, Runtime
from flowgrpo.policies.diffusers._memory import decode_bytes, memory, model_size
from flowgrpo.policies.diffusers._size import _unet_blocks, size_on_disk

CPU = torch.device("cpu")
GIB = 2**30
ROWS = 2
SIZE = {
    "denoiser": {"parameters": 2_000_000_000, "layers": 24, "width": 1536, "tokens": 1357},
    "encoders": {"parameters": 5_000_000_000, "width": 4096, "tokens": 333},
    "vae": {"parameters": 84_000_000, "width": 256},
}


def test_a_unet_counts_as_its_blocks_at_their_resolutions():
    config = {
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    }
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        **config,
    )
    inputs = {"timestep": torch.tensor([5, 5]), "encoder_hidden_states": torch.randn(ROWS, 4, 32)}
    kept = [saved_bytes(unet, {**inputs, "sample": torch.randn(ROWS, 4, side, side)}) for side in (16, 32)]
    layers, width = _unet_blocks(config)
    estimated = training("fp32", ROWS * (32**2 - 16**2) * width, layers, whole=True, every=0, activations=Activations())
    assert 0.5 < estimated / (kept[1] - kept[0]) < 2.0


def decoder(kind):
    torch.manual_seed(0)
    if kind == "pictures":
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        vae = AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1, latent_channels=4, **blocks)
        return vae, torch.randn(3, 4, 32, 32), {"height": 64, "width": 64}
    vae = AutoencoderKLWan(base_dim=16, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True])
    return vae, torch.randn(2, 4, 3, 8, 8), {"height": 64, "width": 64, "num_frames": 9}


@pytest.mark.parametrize("slicing", [False, True])
@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_decoding_needs_what_is_estimated(kind, slicing, tmp_path):
    vae, latents, call = decoder(kind)
    vae.use_slicing = slicing
    vae.requires_grad_(False)
    with torch.no_grad(), Alive(weights(vae)) as seen:
        vae.decode(latents)
    pipe = tiny.pipelines()["sd3" if kind == "pictures" else "wan"].build()
    pipe.vae = vae
    pipe.save_pretrained(tmp_path)
    config = DiffusersConfig(model=str(tmp_path), steps=4, call=call, runtime=Runtime(vae_slicing=slicing))
    assert 0.6 < decode_bytes(config, model_size(config).vae, len(latents)) / seen.peak < 1.6


def test_an_update_of_the_miniature_needs_what_is_estimated():
    config = load_config("quickstart").policy
    policy = config.build(CPU, seed=0)
    prompts = [Prompt(i, "a red circle") for i in range(8)]
    states = policy.start(prompts, [("key", i) for i in range(8)])
    policy.predict(states, prompts, 0)
    with Alive([t for m in [*policy.modules.values(), policy.pipe.vae] for t in weights(m)]) as seen:
        policy.predict(states, prompts, 0).square().mean().backward()
    assert 0.5 < memory(config, Work(states=8, samples=8))["update"]["activations"] / seen.peak < 2.0


KNOWN = ["sd15", "sd3", "flux", "pixart_sigma", "sana", "wan22", "ltx", "qwenimage"]


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_are_read_off_the_folder_of_any_pipeline(name, tmp_path):
    entry = tiny.pipelines()[name]
    pipe = entry.build()
    pipe.save_pretrained(tmp_path)
    size = size_on_disk(tmp_path, entry.call)
    kind = "unet" if name.startswith("sd") and name != "sd3" else "transformer"
    denoiser = pipe.components[kind]
    rows = []
    layer = next(m for key, m in denoiser.named_modules() if key.endswith("to_q"))
    layer.register_forward_pre_hook(lambda _, arguments: rows.append(arguments[0].shape))
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt="a red circle", num_inference_steps=2, output_type="latent", **entry.call)
    assert size.denoiser.parameters == sum(t.numel() for t in denoiser.state_dict().values())
    assert size.denoiser.count == (2 if name == "wan22" else 1)
    assert size.vae.parameters == sum(t.numel() for t in pipe.vae.state_dict().values())
    assert size.denoiser.width == rows[0][-1]
    text = size.encoders.tokens if name in ("sd3", "flux", "qwenimage") else 0
    if kind == "transformer":
        assert size.denoiser.tokens - text == rows[0][1]
    assert size.denoiser.layers >= 1 and size.encoders.parameters > 0
    assert count_parameters(tmp_path / "nowhere") == 0


def test_adapters_are_counted_to_the_last_weight(pipelines):
    for name in ("sd3", "sd15"):
        lora = AttentionLora(rank=3)
        policy = DiffusersConfig(model=str(pipelines[name]), steps=4, lora=lora).build(CPU, seed=0)
        folder = pipelines[name] / ("unet" if name == "sd15" else "transformer")
        assert lora_parameters(folder, lora.targets, 3) == sum(p.numel() for p in policy.trainable().values())


EIGHT = Work(states=8, samples=8)


def estimate(work=EIGHT, **options):
    options = {"call": {"height": 512, "width": 512, "guidance_scale": 4.5}, "dtype": "bf16", **options}
    return memory(DiffusersConfig(model="some/model", steps=10, size=ModelSize.model_validate(SIZE), **options), work)


def total(found, phase):
    return sum(found[phase].values())


def test_phases_hold_what_they_say():
    plain, moved = estimate(), estimate(runtime=Runtime(offload=True))
    assert plain["load"] == {"denoiser": 4_000_000_000, "encoders": 10_000_000_000, "vae": 168_000_000}
    assert total(plain, "update") - total(moved, "update") == 10_168_000_000
    assert total(plain, "encode") - total(moved, "encode") == 168_000_000
    assert total(plain, "decode") - total(moved, "decode") == 10_000_000_000
    sliced = estimate(runtime=Runtime(vae_slicing=True))
    assert total(sliced, "decode") < total(plain, "decode") and total(sliced, "update") == total(plain, "update")
    again = estimate(runtime=Runtime(gradient_checkpointing=True))
    assert again["update"]["activations"] < 0.1 * plain["update"]["activations"]
    half, quarter = (estimate(runtime=Runtime(gradient_checkpointing=every))["update"]["activations"] for every in (2, 4))
    assert again["update"]["activations"] < half < 0.6 * plain["update"]["activations"]
    assert half < quarter < 0.85 * plain["update"]["activations"]
    few = estimate(runtime=Runtime(quantisation="nf4", quantise_encoders=True))
    assert few["load"]["denoiser"] == int(0.516 * 2e9) and few["load"]["encoders"] == int(0.516 * 5e9)


def test_what_waits_in_main_memory_is_not_on_the_device():
    """16 rows of 1347 tokens and 1536 values: 34 bytes each as a pass holds them, 57 of a block that is computed again."""
    unit = 16 * 1357 * 1536
    for again, held in ((False, 34), (True, 47)):
        found = estimate(runtime=Runtime(offload_activations=True, gradient_checkpointing=again))
        assert found["update"]["activations"] == held * unit
        assert found["rollout"] == estimate()["rollout"]
    masked = [
        memory_of(load_config("llada-8b/diffu_grpo", [f"policy.gradient_checkpointing={again}", *more]))["update"]["activations"]
        for again in ("false", "true")
        for more in ([], ["policy.offload_activations=true"])
    ]
    assert masked[0] > masked[1] and masked[0] > masked[2] > masked[3]


def test_activations_are_moved_once_all_blocks_are_computed_again(capsys):
    """Main memory is slower than a block, so it is the last of what costs time and leaves the policy as it is."""
    few = ["policy.dtype=bf16", "rollout.micro_batch=4", "rollout.keep=host", "policy.runtime={offload: true, vae_slicing: true}"]
    again = memory_of(load_config("sd3.5-medium/flow_grpo", [*few, "policy.runtime.gradient_checkpointing=true"]))
    budget = sum(again["update"].values()) - 1
    found = json.loads(plan(capsys, "sd3.5-medium/flow_grpo", *few, "--memory", str(budget / GIB), "--json"))["fit"]
    chosen = [row["set"] for row in found["switches"] if row["costs"] == "time"]
    assert chosen[:2] == ["policy.runtime.gradient_checkpointing=true", "policy.runtime.offload_activations=true"]


def test_tiles_help_pictures_that_are_larger_than_one():
    small, large = ({"height": side, "width": side, "guidance_scale": 1.0} for side in (1024, 2048))
    for call, helps in ((small, False), (large, True)):
        plain, tiled = estimate(call=call), estimate(call=call, runtime=Runtime(vae_tiling=True))
        assert (total(tiled, "decode") < total(plain, "decode")) == helps


def test_all_weights_cost_sixteen_bytes_each_and_a_cast_copy():
    work = Work(states=1, samples=1, averages=("ema",))
    found = estimate(work, lora=None)["update"]
    count = SIZE["denoiser"]["parameters"]
    assert found["denoiser"] == 0
    parts = ("trained weights", "optimizer", "ema", "gradients")
    assert [found[part] for part in parts] == [4 * count, 8 * count, 4 * count, 4 * count]
    assert found["activations"] > 2 * count


def test_a_plan_names_each_average_and_the_copy_that_waits_in_main_memory(capsys):
    """SD3.5-medium has 2,243,000,000 weights: an average is float32, the copy as they are stored, in fp16."""
    whole = json.loads(plan(capsys, "sd3.5-medium", "nft", "policy.lora=null", "--json"))
    update = whole["memory_bytes"]["update"]
    assert update["ema"] == update["old"] == 4 * 2_243_000_000 and whole["copy_in_main_memory_bytes"] == 2 * 2_243_000_000
    assert "copy in main memory bytes            4.2 GiB" in plan(capsys, "sd3.5-medium", "nft", "policy.lora=null")
    adapters = json.loads(plan(capsys, "sd3.5-medium", "nft", "old=null", "--json"))
    assert "copy_in_main_memory_bytes" not in adapters and "old" not in adapters["memory_bytes"]["update"]
    masked = json.loads(plan(capsys, "mini-mdlm", "vrpo", "--json"))
    assert masked["copy_in_main_memory_bytes"] == masked["memory_bytes"]["load"]["weights"]


def test_guidance_doubles_the_rows_unless_the_scale_is_an_input():
    rollout = estimate()["rollout"]["activations"]
    plain = {"height": 512, "width": 512, "guidance_scale": 1.0}
    assert estimate(call=plain)["rollout"]["activations"] == rollout // 2
    assert estimate(call={**plain, "true_cfg_scale": 4.0})["rollout"]["activations"] == rollout


def test_states_that_are_kept_for_the_update_are_counted():
    recipe = load_config("sd3.5-medium/flow_grpo")
    found = memory_of(recipe)["rollout"]["latents"]
    assert found == 2 * 9 * 48 * 24 * 4 * 1357 * 64
    assert memory_of(recipe, processes=4)["rollout"]["latents"] == found // 4
    twice = load_config("sd3.5-medium/flow_grpo", ["optimizer.epochs=2"])
    assert memory_of(twice)["rollout"]["latents"] == 3 * found // 2


def test_a_hub_model_without_a_size_is_refused():
    with pytest.raises(UserError, match=r"'some/model' is not on this disk; give policy\.size"):
        model_size(DiffusersConfig(model="some/model", steps=4))


def plan(capsys, *arguments):
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_the_table_has_a_line_per_phase(capsys):
    lines = plan(capsys, "sd3.5-medium/flow_grpo", "--memory", "1000").splitlines()
    named = [line.split()[1] for line in lines if line.startswith("memory: ")]
    assert named == ["load", "encode", "rollout", "decode", "reward", "update"]
    assert lines[-1] == "fits in 1000.0 GiB"


@pytest.mark.parametrize("budget", [80, 40, 24])
def test_what_is_advised_fits_and_says_what_it_leaves(capsys, budget):
    recipe = "sd3.5-medium/flow_grpo"
    fit = json.loads(plan(capsys, recipe, "policy.dtype=bf16", "--memory", str(budget), "--json"))["fit"]
    assert "update" in fit["too_large"] and fit["fits"]
    costs = [("nothing", "time", "exactness").index(row["costs"]) for row in fit["switches"]]
    assert costs == sorted(costs)
    bill = bill_of(load_config(recipe, ["policy.dtype=bf16", *(row["set"] for row in fit["switches"])]))
    assert bill["peak_memory_bytes"] == fit["switches"][-1]["peak_memory_bytes"] <= budget * GIB
    assert bill["peak_memory_bytes"] == peak(bill["memory_bytes"])


def test_a_smaller_device_needs_more_switches(capsys):
    def chosen(budget):
        found = plan(capsys, "sd3.5-medium/flow_grpo", "policy.dtype=bf16", "--memory", str(budget), "--json")
        return {row["set"].partition("=")[0] for row in json.loads(found)["fit"]["switches"]}

    assert chosen(80) < chosen(24)
    assert "policy.runtime.offload" in chosen(24)


def test_what_cannot_fit_is_said(capsys):
    out = plan(capsys, "flux.1-dev/dance_grpo", "--memory", "80")
    assert "does not fit in 80.0 GiB: encode, rollout, decode, reward, update" in out
    assert out.splitlines()[-1] == "no switch is left, and the largest part is 'trained weights': train less of it (policy.lora)"
    assert "quantisation" not in out


def test_predictions_of_ids_that_wait_for_an_update_are_counted():
    """float32 logits of 8 positions over 21 ids, for each of 4 steps of 8 samples of 24 prompts."""
    plain, kept = (memory_of(load_config(f"mini-mdlm trajectory {rule}")) for rule in ("dr_grpo", "tw_grpo"))
    assert "predictions" not in plain["update"]
    assert kept["update"]["predictions"] == kept["rollout"]["predictions"] == 4 * 8 * 21 * 4 * 8 * 24
    waiting = memory_of(load_config("mini-mdlm trajectory tw_grpo", ["rollout.keep=host", "rollout.micro_batch=8"]))
    assert waiting["update"]["predictions"] == 4 * 8 * 21 * 4 * 8


def test_masked_models_have_phases_too(capsys):
    fit = json.loads(plan(capsys, "mini-mdlm/diffu_grpo", "--memory", "0.001", "--json"))
    assert {*fit["memory_bytes"]} == {"load", "rollout", "update"}
    assert "policy.gradient_checkpointing=true" in [row["set"] for row in fit["fit"]["switches"]]


@pytest.mark.parametrize("value", ["0", "-1", "much", "nan", "inf"])
def test_memory_is_a_number_of_gib(value, capsys):
    assert main(["plan", "quickstart", "--memory", value]) == 2
    assert "--memory" in capsys.readouterr().err
