"""Adapters that are loaded: right ones do what was trained, wrong ones are refused in one sentence."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers import _adapters as adapters
from flowgrpo.policies.diffusers._runtime import denoisers
from flowgrpo.policies.masked import MaskedConfig

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle")]


def nudge(policy, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trainable().values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def config_of(pipelines, name="sd3", **options):
    return DiffusersConfig(model=str(pipelines[name]), steps=3, call=tiny.pipelines()[name].call, **options)


@pytest.fixture(scope="module")
def trained(pipelines, tmp_path_factory):
    """The config of a tiny pipeline and an adapter of it that does something."""
    config = config_of(pipelines)
    policy = config.build(CPU, 0)
    nudge(policy)
    folder = tmp_path_factory.mktemp("trained")
    policy.export()(folder)
    write_config(folder, config)
    return config, folder


def write_config(folder, policy):
    (folder / "config.yaml").write_text(json.dumps({"policy": policy.model_dump(mode="json")}))


def made(config, folder):
    return config.build_sampler(CPU, folder).generate(PROMPTS, [0], 3).images


def spoilt(folder, target, change):
    """A copy whose tensors are `change`d."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    for file in target.glob("*.safetensors"):
        save_file({key: value.contiguous() for key, value in change(load_file(file)).items()}, file)
    return target


def first_half(state):
    return {key: state[key] for key in sorted(state)[: len(state) // 2 // 2 * 2]}


def of_another_shape(state):
    return {key: value[:, :-1] if ".lora_A." in key else value for key, value in state.items()}


def with_one_nan(state):
    key = next(iter(state))
    return {**state, key: torch.full_like(state[key], torch.nan)}


WRONG = {
    "keys that fit nothing": (
        lambda s: {k.replace("transformer_blocks", "layers").replace("model.layers", "model.blocks"): v for k, v in s.items()},
        "are not in|are none of the model's",
    ),
    "another prefix": (lambda s: {f"foo.{k}": v for k, v in s.items()}, "is for none of|are none of the model's|are not in"),
    "no LoRA at all": (lambda s: {k.replace("lora_", "ia3_"): v for k, v in s.items()}, "is no part of a LoRA|can't be loaded"),
    "nothing": (lambda s: {}, "holds nothing for|holds no layers|can't be loaded"),
    "half of the layers": (first_half, "it is not whole"),
    "A without B": (lambda s: {k: v for k, v in s.items() if ".lora_A." in k}, "has lora_A without lora_B"),
    "B without A": (lambda s: {k: v for k, v in s.items() if ".lora_B." in k}, "has lora_B without lora_A"),
    "every second tensor of one layer": (lambda s: dict(list(s.items())[1:]), "has lora_B without lora_A"),
    "one tensor more": (
        lambda s: {**s, next(iter(s)).partition(".lora")[0] + ".bias": torch.ones(1)},
        "no part of a LoRA|can't be loaded",
    ),
    "another shape": (of_another_shape, "for another model|can't be loaded"),
    "all B are 0": (lambda s: {k: v * 0 if ".lora_B." in k else v for k, v in s.items()}, "changes nothing"),
    "all A are 0": (lambda s: {k: v * 0 if ".lora_A." in k else v for k, v in s.items()}, "changes nothing"),
    "not finite": (with_one_nan, "are not finite"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_adapter_of_a_pipeline_is_refused(trained, tmp_path, capfd, change, words):
    config, folder = trained
    with pytest.raises(UserError, match=words) as refused:
        config.build_sampler(CPU, spoilt(folder, tmp_path, change))
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)
    assert capfd.readouterr().err == ""


def test_a_right_adapter_is_loaded_without_a_word(trained, capfd, recwarn):
    config, folder = trained
    assert not torch.equal(made(config, folder), made(config, None))
    assert capfd.readouterr().err == "" and not [w for w in recwarn if "lora" in str(w.message).lower()]


@pytest.fixture(scope="module", params=[{}, {"use_rslora": True}, {"alpha_pattern": {"0.attn.to_q": 32}}], ids=str)
def published(request, pipelines, tmp_path_factory):
    """An adapter as flow_grpo publishes it: peft's own, and the pictures of the pipeline that peft has loaded it into."""
    config = config_of(pipelines)
    folder = tmp_path_factory.mktemp("published")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["attn.to_q", "attn.to_k", "attn.to_out.0"], **request.param)
    pipe = config.build_sampler(CPU, None)
    model = get_peft_model(pipe.pipe.transformer, lora)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder))
    pipe = config.build_sampler(CPU, None)
    pipe.pipe.transformer = PeftModel.from_pretrained(pipe.pipe.transformer, str(folder)).merge_and_unload()
    return config, folder, pipe.generate(PROMPTS, [0], 3).images


def test_pefts_own_adapter_makes_the_pictures_that_peft_makes(published, capfd):
    config, folder, pictures = published
    assert next(iter(load_file(folder / "adapter_model.safetensors"))).startswith("base_model.model.")
    found = made(config, folder)
    assert torch.allclose(found, pictures, atol=1e-4)
    assert not torch.allclose(found, made(config, None), atol=1e-2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_adapter_of_pefts_is_refused(published, tmp_path, change, words):
    config, folder, _ = published
    with pytest.raises(UserError, match=words):
        config.build_sampler(CPU, spoilt(folder, tmp_path, change))


def test_a_scale_that_is_not_stated_is_not_guessed(published, tmp_path):
    config, folder, _ = published
    shutil.copy(folder / "adapter_model.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"no adapter_config.json in it, which says how"):
        config.build_sampler(CPU, tmp_path)
    with pytest.raises(UserError, match=r"no pytorch_lora_weights.safetensors in it, and no adapter_model.safetensors"):
        config.build_sampler(CPU, tmp_path / "nowhere")


def test_a_runs_config_says_which_layers_its_adapter_has(pipelines, tmp_path):
    """Few layers are whole if few were trained."""
    config = config_of(pipelines, lora={"targets": ["transformer_blocks.0.attn.to_q"], "rank": 2})
    policy = config.build(CPU, 0)
    nudge(policy)
    policy.export()(tmp_path)
    if len([n for n, _ in denoisers(policy.pipe)["transformer"].named_modules() if n.endswith("attn.to_q")]) > 1:
        with pytest.raises(UserError, match="is not whole; if it is meant so"):
            config.build_sampler(CPU, tmp_path)
    write_config(tmp_path, config)
    assert not torch.equal(made(config, tmp_path), made(config, None))


def test_an_adapter_of_other_trainers_names_loads_whole_or_not_at_all(pipelines, tmp_path):
    """kohya's names of a UNet."""
    config = config_of(pipelines, "sd15")
    policy = config.build(CPU, 0)
    nudge(policy)
    policy.export()(tmp_path / "ours")
    theirs = {}
    for key, value in load_file(tmp_path / "ours" / adapters.FILE).items():
        layer, _, half = key.removesuffix(".weight").rpartition(".lora_")
        name = "lora_" + layer.replace(".", "_")
        theirs[f"{name}.lora_{'down' if half == 'A' else 'up'}.weight"] = value
        theirs[f"{name}.alpha"] = torch.tensor(float(policy.config.lora.rank))
    (tmp_path / "theirs").mkdir()
    save_file(theirs, tmp_path / "theirs" / adapters.FILE)
    assert torch.allclose(made(config, tmp_path / "theirs"), made(config, tmp_path / "ours"), atol=1e-4)
    zero = {key: value * 0 if "lora_up" in key else value for key, value in theirs.items()}
    save_file(zero, tmp_path / "theirs" / adapters.FILE)
    with pytest.raises(UserError, match="changes nothing"):
        config.build_sampler(CPU, tmp_path / "theirs")


@pytest.fixture(scope="module")
def language(mdlm, tmp_path_factory):
    config = MaskedConfig(
        model=str(mdlm), prompt_length=6, length=4, steps=4, sampler={"type": "threshold"}, lora={"targets": ["q_proj", "v_proj"]}
    )
    policy = config.build(CPU, 0)
    nudge(policy)
    folder = tmp_path_factory.mktemp("language")
    policy.export()(folder)
    return config, folder


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_adapter_of_a_language_model_is_refused(language, tmp_path, change, words):
    config, folder = language
    with pytest.raises(UserError, match=f"{words}|of the model's are not in it") as refused:
        config.build_sampler(CPU, spoilt(folder, tmp_path, change))
    assert "\n" not in str(refused.value)


def test_all_weights_of_a_checkpoint_are_there_or_it_is_refused(pipelines, mdlm, tmp_path):
    config = config_of(pipelines, lora=None)
    config.build(CPU, 0).export()(tmp_path / "pipeline")
    language = MaskedConfig(model=str(mdlm), prompt_length=6, length=4, steps=4, sampler={"type": "threshold"})
    language.build(CPU, 0).export()(tmp_path / "language")
    for sampler, folder in ((config, tmp_path / "pipeline" / "transformer"), (language, tmp_path / "language")):
        sampler.build_sampler(CPU, tmp_path / folder.relative_to(tmp_path).parts[0])
        file = next(folder.glob("*.safetensors"))
        whole = load_file(file)
        for state, words in ((first_half(whole), "are not in it"), ({**whole, "strange.weight": torch.ones(2)}, "are none of")):
            save_file(state, file, {"format": "pt"})
            with pytest.raises(UserError, match=words):
                sampler.build_sampler(CPU, tmp_path / folder.relative_to(tmp_path).parts[0])
