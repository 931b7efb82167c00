"""Compiled blocks: the same predictions, by one code in rollout and update, and no code is made twice."""

from functools import partial

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters

from conftest import CALLS, trajectories
from flowgrpo.config.sections import EmaConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import _compiled, tiny
from flowgrpo.policies._compiled import compile_blocks, evaluate_as_in_an_update, repeated
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, Runtime, _policy, _runtime
from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.tiny.mdlm import make_model, save
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.orders import LowConfidence
from flowgrpo.training.ema import Ema
from flowgrpo.training.rollout import rollout

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
QUESTIONS = [Prompt(0, "1+2=:"), Prompt(1, "7:")]
LORA = AttentionLora(rank=2, targets=("to_q", "to_k", "to_v"))
KERNELS = [FlowSde(noise_level=0.5)] * 4


@pytest.fixture(autouse=True)
def uninductive(monkeypatch, request):
    """All that a compiler does but for the machine code, which takes a compiler of C++ and minutes."""
    if "inductor" not in request.node.name:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(_compiled, "FORWARDS", {})
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def built(folder, name, compile="blocks", **settings) -> DiffusersPolicy:
    runtime = Runtime(compile=compile, **settings.pop("runtime", {}))
    settings = {"steps": 4, "call": tiny.pipelines()[name].call, "lora": LORA, "runtime": runtime} | settings
    policy = DiffusersConfig(model=str(folder), **settings).build(CPU, seed=0)
    for key, parameter in policy.trainable().items():
        if "lora_B" in key:
            nn.init.normal_(parameter.data, std=0.1, generator=torch.Generator().manual_seed(0))
    return policy


def codes() -> int:
    return counters["stats"]["unique_graphs"]


class Cycle:
    """What a training does with a policy again and again."""

    def __init__(self, policy: DiffusersPolicy) -> None:
        self.policy, self.ema = policy, Ema(policy.trainable(), EmaConfig(decay=0.9).decay_at)
        self.codes: list[int] = []

    def __call__(self) -> float:
        """The largest log-ratio of the first step."""
        block = rollout(self.policy, PROMPTS, [trajectories(KERNELS, 2, False)] * 2, (0, 0), 4, False)
        worst = 0.0
        for t in block.transitions:
            with torch.no_grad(), self.policy.reference():
                self.policy.predict(t.states, t.prompts, t.step)
            prediction = self.policy.predict(t.states, t.prompts, t.step)[t.parent]
            log_prob = t.law.log_prob(t.states[t.parent], prediction, t.next_states)
            log_prob.mean().backward()
            worst = max(worst, float((log_prob.detach() - t.log_prob).abs().max()))
        with self.ema.applied():
            self.policy.generate(PROMPTS, [0, 1], 4)
        self.codes.append(codes())
        return worst


CASES = [
    ("sd3", {}),
    ("flux", {"lora": None}),
    ("wan", {"runtime": {"gradient_checkpointing": True, "offload": True}}),
    ("sd15", {"lora": None}),
    ("sdxl", {}),
    ("sdxl", {"runtime": {"gradient_checkpointing": 2}}),
    ("sd3", {"guidance_gradient": "conditional", "dtype": "bf16"}),
    ("sd3", {"dtype": "bf16", "runtime": {"attention": "_native_math"}}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_rollout_update_reference_and_evaluation_make_no_code_anew(saved, name, settings):
    cycle = Cycle(built(saved(name), name, **settings))
    for _ in range(2):
        assert cycle() == 0.0
    assert 0 < cycle.codes[0] == cycle.codes[1]
    assert all(p.grad is not None for p in cycle.policy.trainable().values())


LANGUAGE = [
    {"lora": {"rank": 2, "targets": ("q_proj", "v_proj")}, "dtype": "bf16"},
    {"gradient_checkpointing": 2},
]


@pytest.mark.parametrize("settings", LANGUAGE, ids=str)
def test_layers_of_a_language_model_are_compiled_once_for_rows_and_lengths_that_change(tmp_path, settings):
    """Prompts of two lengths, whose answers are done at different steps: a call has one row or a few."""
    model = save(tmp_path, make_model(layers=3))
    sampler = {"type": "low_confidence", "temperature": 0.0}
    config = {"model": str(model), "prompt_length": 5, "length": 4, "steps": 2, "sampler": sampler, "compile": "blocks"}
    policy = MaskedConfig(**config, **settings).build(CPU, 0)
    made = []
    for update in range(4):
        kernels = [LowConfidence(temperature=1.0)] * 2
        block = rollout(policy, QUESTIONS, [trajectories(kernels, 3, True)] * 2, (0, update), 4, False)
        for t in block.transitions:
            with torch.no_grad(), policy.reference():
                policy.predict(t.states, t.prompts, t.step)
            logits = policy.predict(t.states, t.prompts, t.step)[t.parent]
            log_prob = t.law.log_prob(t.states[t.parent], logits, t.next_states)
            assert torch.equal(log_prob.detach(), t.log_prob)
            log_prob.mean().backward()
        policy.generate(QUESTIONS, [0, 1], 2)
        made.append(codes())
    assert made[0] > 0 and made[1] == made[-1]
    assert all(p.grad is not None for p in policy.trainable().values())


def test_a_compiled_language_model_says_what_it_says_uncompiled(mdlm, capsys):
    sampler = {"type": "low_confidence", "temperature": 0.0}
    config = {"model": str(mdlm), "prompt_length": 5, "length": 4, "steps": 2, "sampler": sampler}
    compiled, plain = (MaskedConfig(**config, compile=compile).build(CPU, 0) for compile in ("blocks", "off"))
    states = plain.start(QUESTIONS, [])
    torch.testing.assert_close(compiled.predict(states, QUESTIONS, 0), plain.predict(states, QUESTIONS, 0))
    assert capsys.readouterr().err.count("blocks (1 of MiniMdlm) are compiled") == 1
    assert codes() > 0 and compiled.compiled and not plain.compiled


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Network(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks, self.odd = nn.ModuleList(Block() for _ in range(count)), nn.ModuleList([nn.Linear(16, 16), nn.Dropout()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.odd[0](x)


@pytest.mark.skipif(_compiled.lacks(CPU) is not None, reason="no compiler of C++")
def test_with_and_without_a_graph_inductor_computes_the_same_bits():
    """In 16 bits, where what a graph keeps is rounded, and what is fused without one is not."""
    network = Network(2).bfloat16()
    compile_blocks(network)
    evaluate_as_in_an_update(network)
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = codes()
    with torch.no_grad():
        rolled = network(x)
    assert not rolled.requires_grad
    made = codes() - before
    again = network(x)
    assert torch.equal(again, rolled) and codes() - before == made == 2
    again.sum().backward()
    assert all(p.grad is not None for p in network.blocks.parameters())


def test_as_many_blocks_as_there_are_share_one_code():
    counts = []
    for count in (3, 9):
        network, before = Network(count), codes()
        assert compile_blocks(network) == count
        network(torch.ones(2, 16)).sum().backward()
        counts.append(codes() - before)
    assert counts == [2, 0], "one where the input needs no gradient, one where it does"


def test_a_layer_gets_a_slice_in_one_piece_and_what_is_whole_as_it_is():
    network, seen = Network(1), []
    compile_blocks(network)
    layer = network.blocks[0].up
    layer.register_forward_hook(lambda layer, given, answer: seen.append(given[0]))
    whole = torch.randn(2, 5, 16)
    expected = nn.functional.linear(whole[:, 2:].contiguous(), layer.weight, layer.bias)
    assert torch.equal(layer(whole[:, 2:]), expected) and seen[0].is_contiguous()
    layer(whole)
    assert seen[1] is whole


def test_shapes_that_differ_make_codes_for_any_shape():
    network, made = Network(2), []
    compile_blocks(network)
    for rows in (4, 6, 7, 5, 12):
        network(torch.ones(rows, 16))
        made.append(codes())
    assert made[0] < made[1] == made[-1]


def test_names_of_weights_and_exported_files_are_those_of_an_uncompiled_model(pipelines, tmp_path):
    compiled, plain = built(pipelines["sd3"], "sd3"), built(pipelines["sd3"], "sd3", compile="off")
    assert compiled.trainable().keys() == plain.trainable().keys()
    for name, policy in (("compiled", compiled), ("plain", plain)):
        Cycle(policy)()
        (tmp_path / name).mkdir()
        policy.export()(tmp_path / name)
    files = [{file.name for file in (tmp_path / name).iterdir()} for name in ("compiled", "plain")]
    states = [load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("compiled", "plain")]
    assert files[0] == files[1] and states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_compiled_and_uncompiled_blocks_predict_the_same(pipelines):
    compiled, plain = (built(pipelines["sd3"], "sd3", compile=compile) for compile in ("blocks", "off"))
    states = plain.start(PROMPTS, [("a",), ("b",)])
    torch.testing.assert_close(compiled.predict(states, PROMPTS, 1), plain.predict(states, PROMPTS, 1))


def test_a_prediction_without_gradients_has_no_graph(pipelines):
    policy = built(pipelines["sd3"], "sd3")
    states = policy.start(PROMPTS, [("a",), ("b",)])
    with torch.no_grad():
        assert policy.predict(states, PROMPTS, 0).grad_fn is None
    policy.predict(states, PROMPTS, 0).mean().backward()


def test_finding_out_what_a_state_is_and_decoding_compile_nothing(pipelines):
    policy, before = built(pipelines["wan"], "wan"), codes()
    states = policy.start(PROMPTS, [("a",), ("b",)])
    policy.schedule(PROMPTS)
    policy.decode(states, PROMPTS)
    assert codes() == before


def test_compiled_blocks_can_be_watched(pipelines):
    found = []
    for compile in ("blocks", "off"):
        policy = built(pipelines["flux"], "flux", compile=compile)
        policy.require_watchable()
        found.append(policy.watch(policy.start(PROMPTS, [("a",), ("b",)]), PROMPTS, 1)[1])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["hidream", "kandinsky3", "svd", "sdxl"])
def test_blocks_are_found_in_classes_that_name_none_and_in_those_that_do(name):
    denoisers = _runtime.denoisers(tiny.pipelines()[name].build()).values()
    assert all(any(repeated(module)) for module in denoisers)


def without_blocks(pipelines) -> DiffusionPipeline:
    pipe = _policy.load_pipeline(DiffusersConfig(model=str(pipelines["sd3"]), steps=4, call=CALLS["sd3"]), CPU)
    pipe.transformer.transformer_blocks = nn.Sequential(*pipe.transformer.transformer_blocks)
    return pipe


def test_a_network_without_blocks_is_refused_where_it_is_to_be_compiled(pipelines):
    with pytest.raises(UserError, match="'blocks' needs a list of blocks in SD3Transformer2DModel; set it to off"):
        DiffusersPolicy(without_blocks(pipelines), CPU, steps=4, call=CALLS["sd3"], runtime={"compile": "blocks"})


def test_by_default_what_can_not_be_compiled_is_told(pipelines, monkeypatch, capsys):
    monkeypatch.setattr(DiffusersPolicy, "by_default", staticmethod(lambda device: "blocks"))
    policy = DiffusersPolicy(without_blocks(pipelines), CPU, steps=4, call=CALLS["sd3"])
    assert not policy.compiled and "no blocks are compiled, which needs a list of blocks" in capsys.readouterr().err
    monkeypatch.setattr(_compiled, "lacks", lambda device: "Triton")
    assert not built(pipelines["sd3"], "sd3", compile=None).compiled
    assert capsys.readouterr().err.count("no blocks are compiled, which needs Triton") == 1


def test_a_training_compiles_on_a_gpu_and_what_makes_a_few_samples_does_not():
    gpu = torch.device("cuda")
    assert [kind.by_default(gpu) for kind in (DiffusersPolicy, PipelineSampler)] == ["blocks", "off"]
    assert [kind.by_default(CPU) for kind in (DiffusersPolicy, PipelineSampler)] == ["off", "off"]


def test_one_line_says_that_blocks_are_compiled(pipelines, capsys):
    assert built(pipelines["sd3"], "sd3").compiled
    assert "blocks (1 of SD3Transformer2DModel) are compiled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "meant"), [(False, "off"), (True, "blocks"), ("off", "off"), ("blocks", "blocks"), (None, None)]
)
def test_yaml_reads_off_as_false(written, meant):
    assert Runtime(compile=written).compile == meant


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="'off' or 'blocks'"):
        Runtime(compile="all")
