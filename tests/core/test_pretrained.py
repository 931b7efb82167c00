"""What lacks a weight or its words: libraries go on with random numbers, or with a tokenizer that knows nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ModelMixin
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer
from transformers import PreTrainedModel, ViTConfig, ViTImageProcessor, ViTModel

from flowgrpo.core.errors import UserError
from flowgrpo.core.pretrained import require_vocabulary, whole_models
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.tiny.mdlm import save
from flowgrpo.policies.tiny.parts import byte_tokenizer
from flowgrpo.rewards._hub_detectors import Owlv2
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.scoring.twins import twin

CPU = torch.device("cpu")
LOADERS = [vars(base)["from_pretrained"] for base in (ModelMixin, PreTrainedModel)]


def without_one(folder: Path) -> str:
    """The name of a weight that is not there any more."""
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    name = min(name for name, value in state.items() if value.ndim > 1)
    del state[name]
    save_file(state, file, {"format": "pt"})
    return name


def build(folder: Path) -> None:
    DiffusersConfig(model=str(folder), steps=2).build(CPU, seed=0)


def refused(build: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        build()
    assert [vars(base)["from_pretrained"] for base in (ModelMixin, PreTrainedModel)] == LOADERS
    return str(error.value)


@pytest.mark.parametrize("name, part", [("sd3", "transformer"), ("sd3", "vae"), ("sd3", "text_encoder"), ("wan", "text_encoder")])
def test_a_pipeline_is_refused_whose_part_lacks_a_weight(saved, tmp_path, name, part):
    folder = shutil.copytree(saved(name), tmp_path / "pipeline")
    weight = without_one(folder / part)
    assert refused(lambda: build(folder)).endswith(
        f"{part}: 1 weights of the model's are not in it, such as '{weight}'; it is not whole, or for another model"
    )


def test_a_pipeline_is_refused_whose_tokenizer_knows_no_words(saved, tmp_path):
    """A folder that is missing diffusers looks for beside the others."""
    folder = shutil.copytree(saved("sd3"), tmp_path / "pipeline")
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    assert "tokenizer_2 lacks the words of its tokenizer (merges.txt and vocab.json)" in refused(lambda: build(folder))
    shutil.rmtree(folder / "tokenizer_2")
    assert "lacks the words of its tokenizer (merges.txt and vocab.json)" in refused(lambda: build(folder))


def test_a_tokenizer_that_was_made_in_memory_needs_no_files():
    require_vocabulary(byte_tokenizer())


def test_the_words_of_t5_are_read_from_a_sentencepiece_file(saved, tmp_path):
    folder = shutil.copytree(saved("flux"), tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer_2": ["transformers", "T5TokenizerFast"]}))
    for file in (folder / "tokenizer_2").iterdir():
        file.unlink()
    (folder / "tokenizer_2" / "tokenizer_config.json").write_text("{}")
    assert "tokenizer_2 lacks the words of its tokenizer (spiece.model)" in refused(lambda: build(folder))
    (folder / "tokenizer_2" / "spiece.model").touch()
    assert "tokenizer_2 lacks the words of its tokenizer (spiece.model)" in refused(lambda: build(folder))
    words = tmp_path / "words.txt"
    words.write_text("a red circle\ntwo blue squares\n" * 9)
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    out = str(folder / "tokenizer_2" / "spiece")
    SentencePieceTrainer.train(
        input=str(words), model_prefix=out, vocab_size=40, hard_vocab_limit=False, minloglevel=2, **special
    )
    tokenizer = DiffusersConfig(model=str(folder), steps=2).build(CPU, seed=0).pipe.tokenizer_2
    assert tokenizer.decode(tokenizer("two red circles").input_ids, skip_special_tokens=True) == "two red circles"


def test_a_language_model_is_refused_that_lacks_a_weight(tmp_path):
    folder = save(tmp_path)
    name = without_one(folder)
    config = MaskedConfig(model=str(folder), prompt_length=5, length=4, steps=2, sampler={"type": "low_confidence"})
    assert name in refused(lambda: config.build(CPU, 0))


def test_a_language_model_whose_files_do_not_fit_is_one_sentence(tmp_path):
    folder = save(tmp_path)
    config = MaskedConfig(model=str(folder), prompt_length=5, length=4, steps=2, sampler={"type": "low_confidence"})
    geometry, words = folder / "config.json", folder / "tokenizer.json"
    whole = geometry.read_text()
    geometry.write_text(json.dumps({**json.loads(whole), "hidden_size": 2 * json.loads(whole)["hidden_size"]}))
    assert refused(lambda: config.build(CPU, 0)).startswith(f"model '{folder}' can't be loaded (")
    geometry.write_text("[]")
    assert refused(lambda: config.build(CPU, 0)).startswith(f"the tokenizer of '{folder}' can't be loaded (")
    geometry.write_text(whole)
    words.write_text("{}")
    assert refused(lambda: config.build(CPU, 0)).startswith(f"the tokenizer of '{folder}' can't be loaded (")


def test_a_network_without_a_head_is_no_classifier(tmp_path):
    """As of the weights that a classifier is usually begun from."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    ViTModel(ViTConfig(**sizes, patch_size=8, id2label={0: "ripe", 1: "rotten"})).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert "'classifier.bias'" in refused(lambda: load_reward("classifier", {"model": str(tmp_path)}))


def test_a_detector_is_refused_that_lacks_a_weight(tmp_path):
    folder = twin("flowgrpo.rewards._hub_detectors:Owlv2", {}, tmp_path)["model"]
    assert without_one(Path(folder)) in refused(lambda: Owlv2(folder))


def test_buffers_may_be_missing_and_more_may_be_there(saved, tmp_path):
    folder = shutil.copytree(saved("sd3"), tmp_path / "pipeline")
    (file,) = (folder / "transformer").glob("*.safetensors")
    state = load_file(file)
    del state["pos_embed.pos_embed"]
    save_file({**state, "strange.weight": torch.ones(2)}, file, {"format": "pt"})
    with whole_models():
        build(folder)
