"""Memory and speed choices: what they compute stays the same, and what can't be had is refused in a sentence."""

import io
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gpu_figures
from conftest import CALLS, assert_replayed, trajectories
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, Runtime
from flowgrpo.policies.diffusers._policy import DiffusersPolicy, load_pipeline
from flowgrpo.policies.diffusers._runtime import apply, denoisers, quantised
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.training.rollout import rollout

CPU = torch.device("cpu")
CPU_0 = torch.device("cpu", 0)
"""The same memory under another name, so that moves show."""
GPU = torch.device("cuda")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
LORA = AttentionLora(rank=2, targets=("to_q", "to_k", "to_v"))


def config_of(pipelines, name, **runtime):
    return DiffusersConfig(model=str(pipelines[name]), steps=4, call=CALLS[name], lora=LORA, runtime=Runtime(**runtime))


def loaded(pipelines, name, **runtime):
    return load_pipeline(config_of(pipelines, name, **runtime), CPU)


def pictures(pipe, name):
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    texts = [prompt.text for prompt in PROMPTS]
    return pipe(texts, num_inference_steps=4, generator=generators, output_type="pt", **CALLS[name])[0]


def test_defaults_change_nothing(pipelines):
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    plain = DiffusionPipeline.from_pretrained(pipelines["sd3"], **absent)
    plain.set_progress_bar_config(disable=True)
    assert torch.equal(pictures(loaded(pipelines, "sd3"), "sd3"), pictures(plain, "sd3"))


@pytest.mark.parametrize("name", ["sd3", "flux", "wan", "sd15"])
def test_slicing_decodes_one_sample_at_a_time_to_the_same_pixels(pipelines, name):
    plain, sliced = (loaded(pipelines, name, vae_slicing=on) for on in (False, True))
    rows = []
    first = next(module for key, module in sliced.vae.decoder.named_modules() if key.startswith("conv_in"))
    first.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    assert torch.allclose(pictures(sliced, name), pictures(plain, name), atol=1e-5)
    assert set(rows) == {1}


def test_tiling_decodes_large_pictures_in_tiles(pipelines):
    pipe = loaded(pipelines, "sd3", vae_tiling=True)
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 4
    sizes = []
    pipe.vae.decoder.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[-1]))
    assert pictures(pipe, "sd3").shape[-1] == 8 and len(sizes) > 1 and max(sizes) == 4


def test_a_vae_that_has_no_tiles_is_refused(pipelines):
    pipe = loaded(pipelines, "sd3")
    del pipe.vae.use_tiling, pipe.vae.use_slicing
    for pieces in ("tiling", "slicing"):
        with pytest.raises(UserError, match=f"has no {pieces}; set policy.runtime.vae_{pieces} to false"):
            apply(pipe, config_of(pipelines, "sd3", **{f"vae_{pieces}": True}), CPU)


@pytest.mark.parametrize(("again", "twice"), [(True, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (4, [0, 4])])
def test_every_nth_block_is_computed_again(pipelines, again, twice):
    pipe = loaded(pipelines, "sd3")
    pipe.transformer = type(pipe.transformer).from_config({**pipe.transformer.config, "num_layers": 5})
    apply(pipe, config_of(pipelines, "sd3", gradient_checkpointing=again), CPU)
    calls = []
    for number, block in enumerate(pipe.transformer.transformer_blocks):
        block.norm1.register_forward_hook(lambda *_, number=number: calls.append(number))
    config = pipe.transformer.config
    side, text = config.sample_size, torch.randn(1, 3, config.joint_attention_dim)
    said = pipe.transformer(
        torch.randn(1, config.in_channels, side, side), text, torch.randn(1, config.pooled_projection_dim), torch.tensor([1.0])
    )
    said.sample.sum().backward()
    assert sorted(calls) == sorted([0, 1, 2, 3, 4, *twice])


def test_checkpointing_gives_the_same_gradients(pipelines):
    found = {}
    for again in (False, True, 2):
        policy = config_of(pipelines, "sd3", gradient_checkpointing=again).build(CPU, seed=0)
        states = policy.start(PROMPTS, [("a",), ("b",)])
        policy.predict(states, PROMPTS, 1).square().mean().backward()
        found[again] = {name: p.grad for name, p in policy.trainable().items()}
        assert policy.pipe.transformer.is_gradient_checkpointing == bool(again)
    for again in (True, 2):
        assert all(torch.allclose(found[again][name], grad, atol=1e-7) for name, grad in found[False].items())


def test_a_model_that_cannot_recompute_is_refused(pipelines):
    pipe = loaded(pipelines, "sd3")
    pipe.transformer._supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="SD3Transformer2DModel can't recompute its layers; set policy"):
        apply(pipe, config_of(pipelines, "sd3", gradient_checkpointing=True), CPU)


class Moves:
    """Who is moved where: a record of `to` on the modules of a pipeline."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.at: dict[str, str] = {}
        self.log: list[tuple[str, str]] = []
        for name, module in pipe.components.items():
            if isinstance(module, nn.Module):
                module.to = self._recorder(name, module, module.to)

    def _recorder(self, name, module, move):
        def to(device, **options):
            self.at[name] = str(torch.device(device))
            self.log.append((name, self.at[name]))
            return move(device, **options)

        return to


@pytest.mark.parametrize("name", ["sd3", "flux", "wan", "sd15"])
def test_encoders_and_vae_are_on_the_device_only_while_they_run(pipelines, name):
    config = config_of(pipelines, name, offload=True)
    pipe = loaded(pipelines, name)
    expected = pictures(pipe, name)
    moves = Moves(pipe)
    apply(pipe, config, CPU_0)
    denoiser = "unet" if name == "sd15" else "transformer"
    waiting = {key for key in moves.at if key != denoiser}
    assert moves.at == {denoiser: "cpu:0", **dict.fromkeys(waiting, "cpu")}
    inside = []
    encoders = {key for key in waiting if key.startswith("text_encoder")}
    watched = {key: next(m for m in pipe.components[key].modules() if isinstance(m, nn.Linear)) for key in encoders}
    watched |= {"vae": pipe.vae.decoder, denoiser: pipe.components[denoiser]}
    for key, module in watched.items():
        module.register_forward_pre_hook(
            lambda *_, key=key: inside.append((key, {who for who, at in moves.at.items() if at == "cpu:0"}))
        )
    assert torch.equal(pictures(pipe, name), expected)
    assert {key for key, _ in inside} == {denoiser, "vae", *encoders}
    assert all(present == {denoiser, key} for key, present in inside)
    comings = [key for key, at in moves.log if at == "cpu:0"]
    assert all(comings.count(key) <= 2 for key in comings)


def test_a_policy_trains_with_offload_as_without(pipelines):
    found = []
    for on in (False, True):
        policy = config_of(pipelines, "sd3", offload=on, vae_slicing=on).build(CPU, seed=0)
        assert ("_hf_hook" in vars(policy.pipe.vae)) == on and policy.pipe.vae.use_slicing == on
        shape = trajectories([FlowSde(), FlowSde(), FlowSde(), Ode()], 2, False)
        block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 4, keep_predictions=False)
        found.append(torch.cat([t.log_prob for t in block.transitions]))
    assert torch.equal(*found)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends_reach_the_denoiser(pipelines, backend):
    plain = pictures(loaded(pipelines, "flux"), "flux")
    pipe = loaded(pipelines, "flux", attention=backend)
    chosen = {layer.processor._attention_backend for layer in pipe.transformer.modules() if "processor" in dir(layer)}
    assert {name.value for name in chosen} == {backend}
    assert torch.allclose(pictures(pipe, "flux"), plain, atol=1e-5)
    pipe.transformer.set_attention_backend("native")


class Called(TorchDispatchMode):
    """Names of what torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["sd3", "sd15"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_kernels_of_torch_are_chosen_where_layers_call_it_themselves(pipelines, name, recomputed):
    """Also where blocks are computed again for the gradient, and all of a class share one forward, as compiled ones need."""
    found = {}
    for kernel in (None, "_native_math"):
        policy = config_of(pipelines, name, attention=kernel, gradient_checkpointing=recomputed).build(CPU, seed=0)
        states = policy.start(PROMPTS, [("a",), ("b",)])
        with Called() as called:
            prediction = policy.predict(states, PROMPTS, 0)
            prediction.square().mean().backward()
        found[kernel] = prediction.detach(), any("flash" in one for one in called.names)
    (denoiser,) = denoisers(policy.pipe).values()
    assert len({layer.forward.__func__ for layer in denoiser.modules() if "processor" in dir(layer)}) == 1
    assert found[None][1] and not found["_native_math"][1]
    torch.testing.assert_close(found[None][0], found["_native_math"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "backend", "dtype", "words"),
    [
        ("flux", "flsh", "bf16", "diffusers has no backend 'flsh' (did you mean 'flash'?"),
        ("flux", "flash", "fp32", "'flash' computes in 16 bits; set policy.dtype to bf16 or fp16"),
        ("sd15", "native", "fp32", "UNet2DConditionModel calls torch's own attention, which has _native_math, _native_flash"),
        ("sd3", "xformers", "bf16", "SD3Transformer2DModel calls torch's own attention, which has _native_math, _native_flash"),
        ("sd3", "_native_cudnn", "bf16", "torch has no '_native_cudnn' for heads of 8 in bf16 on this cpu; set it to null"),
        ("flux", "_native_efficient", "bf16", "torch has no '_native_efficient' for heads of 64 in bf16 on this cpu; set it"),
    ],
)
def test_attention_backends_that_cannot_be_had_are_refused(pipelines, name, backend, dtype, words):
    config = config_of(pipelines, name, attention=backend).model_copy(update={"dtype": dtype})
    with pytest.raises(UserError) as error:
        load_pipeline(config, CPU)
    assert words in str(error.value)


def test_a_kernel_is_tried_with_the_heads_of_the_denoiser(pipelines, monkeypatch):
    """Flash attention on a GPU takes multiples of 8 alone."""

    def scaled_dot_product_attention(q, k, v):
        if q.shape[-1] == 8:
            raise RuntimeError("No available kernel. Aborting execution.")

    stand_in = "flowgrpo.policies.diffusers._runtime.scaled_dot_product_attention"
    monkeypatch.setattr(stand_in, scaled_dot_product_attention)
    with pytest.raises(UserError, match="torch has no '_native_math' for heads of 8 in fp32"):
        loaded(pipelines, "sd3", attention="_native_math")


@pytest.mark.skipif(find_spec("xformers") is not None, reason="xformers is installed")
def test_a_backend_that_is_not_installed_names_its_package(pipelines):
    with pytest.raises(UserError, match=r"attention 'xformers': .*install `xformers"):
        loaded(pipelines, "flux", attention="xformers")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": None, "dtype": "bf16", "runtime": {"quantisation": "nf4"}}, "freezes the weights that lora: null trains"),
        ({"dtype": "fp32", "runtime": {"quantisation": "int8"}}, "'int8' does not compute in fp32; set dtype to bf16"),
        ({"dtype": "fp16", "runtime": {"quantisation": "int8_weight_only"}}, "does not compute in fp16; set dtype to bf16"),
        ({"runtime": {"quantise_encoders": True}}, "set quantisation too"),
        ({"runtime": {"quantisation": "int4"}}, "'none', 'nf4', 'int8', 'int8_weight_only' or 'float8_weight_only'"),
        ({"runtime": {"offlod": True}}, "unknown key 'offlod' (did you mean 'offload'?"),
        ({"gradient_checkpointing": True}, "unknown key 'gradient_checkpointing'"),
    ],
)
def test_choices_that_exclude_each_other_are_refused_by_the_config(options, words):
    with pytest.raises(ValueError) as error:
        DiffusersConfig(model="a/b", steps=4, **options)
    assert words in str(error.value)


def test_a_loaded_pipeline_is_not_quantised_anew(pipelines):
    pipe = DiffusionPipeline.from_pretrained(pipelines["flux"], dtype=torch.bfloat16)
    with pytest.raises(UserError, match="'int8_weight_only' is for weights that are loaded from files"):
        DiffusersPolicy(pipe, steps=2, lora={"rank": 2}, runtime={"quantisation": "int8_weight_only"})


def quantised_config(pipelines, kind, **more):
    runtime = Runtime(quantisation=kind, **more)
    return DiffusersConfig(model=str(pipelines["flux"]), steps=4, call=CALLS["flux"], dtype="bf16", runtime=runtime)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("nf4", "bitsandbytes"), ("int8", "bitsandbytes"), ("int8_weight_only", "torchao"), ("float8_weight_only", "torchao")],
)
def test_quantisation_names_the_extra_that_is_missing(pipelines, kind, package, monkeypatch):
    monkeypatch.setattr("flowgrpo.policies.diffusers._runtime.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"'{kind}' needs {package}; install it with pip install 'flowgrpo\[quantisation\]'"):
        quantised(quantised_config(pipelines, kind), GPU, str(pipelines["flux"]))


def test_bitsandbytes_needs_a_gpu(pipelines, monkeypatch):
    monkeypatch.setattr("flowgrpo.policies.diffusers._runtime.find_spec", lambda name: name)
    with pytest.raises(UserError, match="'nf4' needs a GPU; on a CPU use int8_weight_only"):
        quantised(quantised_config(pipelines, "nf4"), CPU, str(pipelines["flux"]))


def test_nothing_is_asked_of_from_pretrained_without_quantisation(pipelines):
    assert quantised(config_of(pipelines, "flux"), CPU, str(pipelines["flux"])) == {}


@pytest.mark.parametrize("encoders", [False, True])
def test_quantisation_is_asked_for_the_denoiser_and_where_wanted_the_encoders(pipelines, encoders, monkeypatch):
    monkeypatch.setattr("flowgrpo.policies.diffusers._runtime.find_spec", lambda name: name)
    monkeypatch.setattr("flowgrpo.policies.diffusers._runtime._storage", lambda kind, dtype, encoder: (kind, encoder))
    monkeypatch.setattr("flowgrpo.policies.diffusers._runtime.PipelineQuantizationConfig", lambda quant_mapping: quant_mapping)
    config = quantised_config(pipelines, "nf4", quantise_encoders=encoders)
    wanted = {"transformer": ("nf4", False)}
    if encoders:
        wanted |= {"text_encoder": ("nf4", True), "text_encoder_2": ("nf4", True)}
    assert quantised(config, GPU, str(pipelines["flux"])) == {"quantization_config": wanted}


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
def test_int8_weights_train_a_lora_and_replay_bit_for_bit(pipelines):
    config = quantised_config(pipelines, "int8_weight_only").model_copy(update={"lora": LORA})
    policy = config.build(CPU, seed=0)
    shape = trajectories([FlowSde(), FlowSde(), FlowSde(), Ode()], 2, False)
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 4, keep_predictions=False)
    for t in block.transitions:
        v = policy.predict(t.states, t.prompts, t.step)
        log_prob = t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states)
        assert_replayed(log_prob, t.log_prob)
        log_prob.mean().backward()
    assert all(p.grad is not None for p in policy.trainable().values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU prints")
def test_the_figures_of_a_gpu_run_in_miniature_on_a_cpu(monkeypatch, capsys):
    def here(command, **_):
        """The process of its own, without the seconds that it takes to import everything."""
        printed = io.StringIO()
        with redirect_stdout(printed), monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            gpu_figures.main()
        return SimpleNamespace(stdout=printed.getvalue())

    monkeypatch.setattr(gpu_figures.subprocess, "run", here)
    monkeypatch.setattr(sys, "argv", ["gpu_figures.py", "sd3.5-medium", "--tiny", "--without-compile"])
    gpu_figures.main()
    title, *rows = capsys.readouterr().out.splitlines()
    assert title == "sd3.5-medium" and [row.split()[0] for row in rows] == ["load", "encode", "rollout", "decode", "update"]
    assert all("no GPU: memory not measured" in row for row in rows)
    assert all(float(row.split()[1]) > 0 for row in rows) and rows[-1].endswith("% of peak")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU refuses")
def test_the_real_sizes_need_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_figures.py"])
    with pytest.raises(SystemExit) as stop:
        gpu_figures.main()
    assert stop.value.code == 2 and "the real sizes need a GPU; --tiny runs here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "recipe"), [("sd3.5-medium", "sd3.5-medium/flow_grpo"), ("wan2.1-1.3b", "wan2.1-1.3b/flow_grpo")]
)
def test_published_configs_have_the_sizes_that_the_recipe_states(name, recipe):
    with torch.device("meta"):
        pipe = gpu_figures.CASES[name].make()
    stated = load_config(f"{name}/flow_grpo").policy.size
    count = {key: sum(p.numel() for p in m.parameters()) for key, m in pipe.components.items() if isinstance(m, nn.Module)}
    assert count["transformer"] == pytest.approx(stated.denoiser.parameters, rel=0.01)
    assert count["vae"] == pytest.approx(stated.vae.parameters, rel=0.01)
    encoders = sum(n for key, n in count.items() if key.startswith("text_encoder"))
    assert encoders == pytest.approx(stated.encoders.parameters, rel=0.01)
