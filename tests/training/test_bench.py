"""`flowgrpo bench`: the trainer's own updates on a watch, and the published loop beside them."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.core.held import held
from flowgrpo.core.paths import locate
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import load_prompts
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers._policy import load_pipeline
from flowgrpo.policies.masked._adapter import load_model, load_tokenizer
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.bench import phases as phases_module
from flowgrpo.training.bench import real, real_language
from flowgrpo.training.bench.measure import Timed, config_of, drawing_lots, measure, published
from flowgrpo.training.bench.page import markdown, write_bench
from flowgrpo.training.bench.phases import PHASES, Phases, Spent
from flowgrpo.training.bench.result import Bench, Side, as_json
from flowgrpo.training.trainer import Trainer

CPU = torch.device("cpu")
FEW = ["rollout.prompts_per_update=1", "rollout.group_size=4", "rollout.micro_batch=4", "optimizer.steps_per_update=1"]
GUIDED = ["policy.call.guidance_scale=4.5", "objective.kl.coefficient=0.04", "evaluation=null", *FEW]


def first_update(config, policy) -> tuple[torch.Tensor, torch.Tensor]:
    """The last states of the first update and its gradient, with adapters that change something."""
    for key, parameter in policy.trainable().items():
        if "lora_B" in key:
            nn.init.normal_(parameter.data, std=0.02, generator=torch.Generator().manual_seed(0))
    prompts = load_prompts(config.rollout.prompts)
    trainer = Trainer(config, policy, prompts, Scorer(config.rewards), Processes.alone())
    gradients = []

    def keep(update: int) -> bool:
        gradients.extend(p.grad.flatten().clone() for p in trainer.weights.parameters.values())
        return True

    trainer.weights.step = keep
    _, blocks, _ = trainer.update()
    return blocks[0].rollout.transitions[-1].next_states, torch.cat(gradients)


def test_the_published_loop_makes_the_same_latents_and_the_same_gradient():
    config = config_of(["mini"], GUIDED)
    latents, gradient = first_update(config, config.policy.build(CPU, config.seed))
    theirs, other = first_update(config, published(config, CPU))
    torch.testing.assert_close(theirs, latents, rtol=1e-5, atol=1e-5)
    assert gradient.norm() > 0 and (other - gradient).norm() <= 1e-5 * gradient.norm()


def test_the_published_loop_evaluates_twice_the_batch_in_one_pass_with_a_graph():
    config = config_of(["mini"], [*GUIDED, "policy.guidance_gradient=conditional", "policy.runtime.compile=blocks"])
    policy, seen = published(config, CPU), []

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append(len(kwargs["hidden_states"]))

    policy.pipe.transformer.register_forward_pre_hook(count, with_kwargs=True)
    prompts = load_prompts(config.rollout.prompts)[:3]
    states = policy.start(prompts, [("a",), ("b",), ("c",)])
    seen.clear()
    assert policy.predict(states, prompts, 0).requires_grad and seen == [6] and not policy.compiled


@pytest.fixture(scope="module")
def bench() -> Bench:
    return measure(config_of(["mini"], GUIDED), updates=1, baseline=True)


def test_an_update_is_told_apart_by_phase(bench, tmp_path):
    assert set(bench.own.spent) == {*PHASES}
    assert all(spent.wall > 0 for spent in bench.own.spent.values())
    assert bench.samples == 4 and bench.own.wall == sum(spent.wall for spent in bench.own.spent.values())
    assert all(bench.operations[phase] > 0 for phase in ("rollout", "decode", "update")) and bench.operations["reward"] == 0
    assert bench.operations["update"] > 1.5 * bench.operations["rollout"], "two of three steps: forward, reference and backward"
    write_bench(bench, tmp_path)
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["peak_memory_bytes"] is None and written["gpu_idle_share"] is None, "there is no GPU to ask"
    assert written["seconds_per_sample"].keys() == written["share_of_peak"].keys() - {"rollout and update"}
    assert written["speed_up"] == bench.speed_up > 0 and written["first_latents_apart"] < 1e-4
    assert "<svg" in (tmp_path / "bench.html").read_text()
    assert "times as fast as Flow-GRPO's published loop" in markdown(bench)


def test_an_update_of_the_rollouts_graph_counts_only_the_way_back(bench):
    """The baseline evaluates again."""
    kept = measure(config_of(["mini"], [*GUIDED, "rollout.keep=graph"]), updates=1, baseline=True)
    assert kept.operations["rollout"] == bench.operations["rollout"] and kept.apart == bench.apart
    # Two of three steps are trained.
    forward = bench.operations["rollout"] * 2 // 3
    assert bench.operations["update"] - kept.operations["update"] == forward


def test_what_is_in_a_phase_inside_counts_there(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(phases_module, "time", SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: 0.0))
    phases = Phases(CPU)
    with phases("rollout"):
        clock.now = 1.0
        with phases("decode"):
            clock.now = 4.0
        clock.now = 6.0
    clock.now = 9.0
    with phases("update"):
        clock.now = 10.0
    assert {name: spent.wall for name, spent in phases.spent.items() if spent.wall} == {
        "rollout": 3.0,
        "decode": 3.0,
        "update": 1.0,
    }


def test_updates_that_compile_are_not_timed():
    config = config_of(["mini"], GUIDED)
    timed = Timed(config, config.policy.build(CPU, 0), load_prompts(config.rollout.prompts), Scorer(config.rewards))
    rows = iter([{"compiling": 5.0}, {"compiling": 2.0}, {}])
    block = SimpleNamespace(rollout=SimpleNamespace(transitions=[SimpleNamespace(next_states=torch.ones(1))]))
    timed.trainer.update = lambda: ({"ratio/first_log_abs_max": 0.0, **next(rows)}, [block], None)
    timed.warm_up()
    assert timed.compiling == 7.0 and not timed.spent and next(rows, None) is None


def test_an_update_has_as_many_prompts_as_fill_a_batch_unless_it_is_said():
    assert config_of(["sd3.5-medium", "flow_grpo", "ocr"], []).rollout.prompts_per_update == 1
    assert config_of(["mini"], []).rollout.prompts_per_update == 12
    assert config_of(["mini"], ["rollout.prompts_per_update=5"]).rollout.prompts_per_update == 5


def test_where_all_rewards_are_equal_an_update_is_timed_all_the_same():
    assert "lots" in drawing_lots(config_of(["mini"], [])).rewards


def test_a_language_model_is_timed_too():
    sizes = ["rollout.prompts_per_update=1", "rollout.group_size=2", "optimizer.steps_per_update=1"]
    found = measure(config_of(["mini-mdlm"], sizes), updates=1)
    assert found.own.wall > 0 and found.operations["update"] > 0 and found.speed_up is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mini-mdlm"], "a loop for Stable Diffusion 3"),
        (["mini-wan"], "a loop for StableDiffusion3Pipeline, and this is a WanPipeline"),
        (["flux.1-dev", "flow_grpo", "ocr", "--random"], "a loop for StableDiffusion3Pipeline, and this is a FluxPipeline"),
        (["mini", "policy.call.clip_skip=1"], "--baseline knows no policy.call.clip_skip"),
    ],
)
def test_the_baseline_is_refused_where_it_is_of_another_model(words, sentence, capsys):
    assert main(["bench", *words, "--baseline"]) == 2
    assert sentence in capsys.readouterr().err


def test_random_weights_need_no_download_and_are_the_same_for_both_sides(monkeypatch):
    monkeypatch.setitem(real.PIPELINES, "stabilityai/stable-diffusion-3.5-medium", tiny.pipelines()["sd3"].build)
    call = "policy.call={height: 8, width: 8, guidance_scale: 4.5, max_sequence_length: 8}"
    small = [call, "policy.steps=4", "policy.dtype=fp32", "rollout.group_size=2", "rollout.micro_batch=2", "evaluation.steps=4"]
    found = measure(config_of(["sd3.5-medium", "flow_grpo", "ocr"], small), updates=1, baseline=True, random=True)
    assert found.apart < 1e-5 and found.own.first_log_ratio == 0.0 and found.trained_share == 1.0
    assert found.config.rewards.keys() == {"lots"}, "the recipe's needs weights of others"


@pytest.mark.parametrize("model", ["mini", "mini-wan", "mini-mdlm"])
def test_of_another_model_the_config_files_are_enough(model, tmp_path):
    """Tokenizers and the scheduler are those of the folder; networks have its sizes, and weights of their own."""
    published = config_of([model], []).policy
    files = shutil.copytree(locate(published.model), tmp_path / model, ignore=shutil.ignore_patterns("*.safetensors", "*.py"))
    config = config_of([model], [f"policy.model={files}", "policy.dtype=bf16"])
    made = held(real.with_random_weights(config, CPU, load_prompts(config.rollout.prompts)).policy.model)
    if model != "mini-mdlm":
        loaded = load_pipeline(published, CPU)
        assert made.scheduler.config == loaded.scheduler.config and made.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
        assert made.components.keys() == loaded.components.keys()
        pairs = [(made.components[name], part) for name, part in loaded.components.items() if isinstance(part, nn.Module)]
    else:
        loaded = load_model(published)
        assert made[1].get_vocab() == load_tokenizer(published).get_vocab()
        pairs = [(made[0], loaded)]
    for random, trained in pairs:
        ours, theirs = dict(random.named_parameters()), dict(trained.named_parameters())
        assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
        assert {value.dtype for value in ours.values()} == {torch.bfloat16}
        largest = max(ours, key=lambda key: ours[key].numel())
        assert ours[largest].std() > 0 and not torch.equal(ours[largest].float(), theirs[largest].float())


def test_sizes_that_are_not_known_are_refused(capsys):
    assert main(["bench", "mini-amused", "--random"]) == 2
    assert "--random makes no policy 'amused'" in capsys.readouterr().err
    assert main(["bench", "sdxl", "flow_grpo", "ocr", "--random"]) == 2
    said = capsys.readouterr().err
    assert "--random knows the sizes of stabilityai/stable-diffusion-3.5-medium, black-forest-labs/" in said
    assert "--exclude '*.safetensors'), and 'stabilityai/stable-diffusion-xl-base-1.0' is neither" in said


def test_random_weights_are_not_quantised(capsys):
    assert main(["bench", "mini", "--random", "policy.dtype=bf16", "policy.runtime.quantisation=int8_weight_only"]) == 2
    assert "--random makes weights of policy.dtype; set policy.runtime.quantisation" in capsys.readouterr().err


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("recipe", ["sd3.5-medium flow_grpo ocr", "flux.1-dev flow_grpo ocr", "wan2.1-1.3b flow_grpo ocr"])
def test_random_pipelines_have_the_weights_that_plan_counts(recipe):
    policy = config_of(recipe.split(), []).policy
    with torch.device("meta"):
        parts = real.PIPELINES[policy.model]().components
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    for made, planned in (
        (encoders, policy.size.encoders),
        ([parts["transformer"]], policy.size.denoiser),
        ([parts["vae"]], policy.size.vae),
    ):
        assert parameters(*made) == pytest.approx(planned.parameters, rel=3e-3)


@pytest.mark.parametrize("model", ["Dream-org/Dream-v0-Instruct-7B", "apple/DiffuCoder-7B-Instruct"])
def test_random_language_models_have_the_weights_that_plan_counts(model):
    policy = load_config(["dream-7b", "diffu_grpo", "countdown"], [f"policy.model={model}"]).policy
    with torch.device("meta"):
        made, _ = real.LANGUAGE[policy.model](["a text"])
    assert parameters(made) == pytest.approx(policy.parameters, rel=1e-3)


def test_a_language_model_with_random_weights_sees_every_id_and_tells_all_prompts_apart(monkeypatch):
    few = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 9000,
    }
    monkeypatch.setattr(real_language, "DREAM", {**real_language.DREAM, **few})
    sizes = [
        "policy.length=8",
        "policy.steps=4",
        "policy.lora.rank=2",
        "policy.mask_id=8999",
        "policy.dtype=fp32",
        "rollout.group_size=2",
        "rollout.micro_batch=2",
    ]
    found = measure(config_of(["dream-7b", "diffu_grpo", "countdown"], [*sizes, "rollout.prompts_per_update=1"]), 1, random=True)
    assert found.own.first_log_ratio == 0.0 and found.trained_share == 1.0
    prompts = load_prompts(found.config.rollout.prompts)[:50]
    model, tokenizer = real_language.dream(prompt.text for prompt in prompts)
    ids = tokenizer([prompt.text for prompt in prompts])["input_ids"]
    assert len({*map(tuple, ids)}) == len({prompt.text for prompt in prompts}) and max(map(len, ids)) < 80
    one = torch.tensor([ids[0]])
    other = one.clone()
    other[0, -1] = tokenizer.pad_token_id
    assert (model(one).logits - model(other).logits)[0, 0].abs().max() > 0


SIDE = Side({phase: Spent(1.0, 1.0) for phase in PHASES}, 0.0, 0.0)
FOUND = Bench(config_of(["mini"], []), "a GPU", 1, 1, SIDE, dict.fromkeys(PHASES, 10), most=100.0, idle=0.1, trained_share=1.0)


def adviser(*overrides: str, idle: float | None = 0.1, **seconds: float) -> str:
    spent = {phase: Spent(seconds.get(phase, 0.1), 1.0) for phase in PHASES}
    return replace(FOUND, config=config_of(["mini"], overrides), own=Side(spent, 0.0, 0.0), idle=idle).advice


def test_one_sentence_says_what_would_help():
    assert "policy.dtype=bf16" in adviser()
    assert "policy.runtime.compile=blocks" in adviser("policy.runtime.compile=off")
    assert "rollout.micro_batch" in adviser("policy.dtype=bf16", idle=0.5)
    assert "guidance_gradient=conditional" in adviser("policy.call.guidance_scale=4.5", idle=None)
    assert "gradient_checkpointing=false" in adviser("policy.runtime.gradient_checkpointing=true", idle=None)
    assert "offload_activations=false" in adviser("policy.runtime.offload_activations=true", idle=None)
    assert "attention=_native_math" in adviser("policy.dtype=bf16", idle=None)
    assert "attention" not in adviser("policy.dtype=bf16", "policy.runtime.attention=_native_math", idle=None)
    assert "'reward'" in adviser(idle=None, reward=1.0)
    assert "rollout.keep=graph" in adviser(idle=None, rollout=1.0, update=2.0)
    assert "compile=blocks" in adviser("rollout.keep=graph", idle=None, rollout=1.0, update=2.0)
    assert "compile=blocks" in adviser("optimizer.steps_per_update=2", idle=None, rollout=1.0, update=2.0)
    compiled = "policy.runtime.compile=blocks"
    assert "nothing stands out" in adviser("optimizer.steps_per_update=2", compiled, idle=None, rollout=1.0, update=2.0)
    assert "nothing stands out" in adviser("rollout.keep=graph", compiled, idle=None, rollout=1.0, update=2.0)


def test_shares_are_of_what_products_of_matrices_reach():
    assert FOUND.share_of_peak("rollout") == pytest.approx(0.1)
    assert as_json(replace(FOUND, baseline=replace(SIDE, spent={p: Spent(3.0, 2.0) for p in PHASES})))["speed_up"] == 3.0
