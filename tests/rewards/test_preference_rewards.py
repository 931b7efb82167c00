"""Rewards whose weights live on the hub. No published weights here: all models have tiny random weights of the same classes.

They are saved in the published formats and put where the hub's client caches the pinned commits, so that rewards are made with
their default arguments and loaded by the code that loads the real ones.
"""

import copy
import re
import shutil
from functools import partial

import huggingface_hub
import open_clip
import pytest
import torch
from huggingface_hub.file_download import repo_folder_name
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.transforms.functional import to_pil_image
from transformers import BertConfig, BertModel, BlipTextConfig, BlipVisionConfig, CLIPImageProcessor, CLIPModel

from flowgrpo.core.errors import UserError
from flowgrpo.rewards import aesthetic, clip_score, hps, image_reward, pickscore
from flowgrpo.rewards._clip import Preprocessing
from flowgrpo.rewards._hub import PINNED, fetch
from flowgrpo.rewards._preference import Head, captions_ladder
from flowgrpo.scoring.exemplars import photos, samples
from flowgrpo.scoring.scorer import find_reward
from flowgrpo.scoring.twins import randomised

VISION, TEXT = image_reward.VISION, image_reward.TEXT
NAMES = ["clip_score", "aesthetic", "hps", "pickscore", "image_reward"]
B32, L14 = "timm/vit_base_patch32_clip_224.openai", "timm/vit_large_patch14_clip_224.openai"
TINY = {
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "of", "on", "in", "its", "the", "cat", "cup", "coffee", "rocket"]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Small architectures under the published names, and a hub that can't be reached."""
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = BlipVisionConfig(**sizes, image_size=32, patch_size=16, layer_norm_eps=1e-6)
    text = BlipTextConfig(**sizes, vocab_size=len(WORDS) + 2, encoder_hidden_size=128, bos_token_id=None, sep_token_id=None)
    with pytest.MonkeyPatch.context() as patch:
        for name, width in {"ViT-B-32": 16, "ViT-B-32-quickgelu": 16, "ViT-L-14-quickgelu": 768, "ViT-H-14": 16}.items():
            config = {**TINY, "embed_dim": width, "quick_gelu": name.endswith("quickgelu")}
            patch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        patch.setattr(image_reward, "VISION", vision)
        patch.setattr(image_reward, "TEXT", text)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


class Hub:
    """The folder in which the hub's client keeps what it has fetched."""

    def __init__(self, root):
        self.root = root

    def __call__(self, repo, name, commit=None):
        """Where a file of a repository is, at the pinned commit or another."""
        folder = self.root / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots" / (commit or PINNED[repo])
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A folder with a checkpoint of every reward, and the modules that they were saved from."""
    hub = Hub(tmp_path_factory.mktemp("saved"))
    modules = {
        "clip_score": save_clip("ViT-B-32-quickgelu", hub(B32, "open_clip_model.safetensors"), seed=4),
        "aesthetic": save_aesthetic(hub),
        "hps": save_hps(hub, "v2.1", seed=3),
        "pickscore": save_pickscore(hub),
        "image_reward": save_image_reward(hub),
    }
    return hub.root, modules


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Nothing is fetched yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


@pytest.fixture
def published(saved, hub):
    """Every checkpoint is fetched; the modules that they were saved from, by reward."""
    folder, modules = saved
    shutil.copytree(folder, hub.root)
    return copy.deepcopy(modules)


def save_clip(name, path, seed):
    network = randomised(open_clip.create_model(name), (seed,))
    save_file(network.state_dict(), path)
    return network


def save_aesthetic(hub):
    head = randomised(Head(768), (2,))
    torch.save(head.state_dict(), hub(aesthetic.REPO, aesthetic.FILE))
    return head, save_clip("ViT-L-14-quickgelu", hub(L14, "open_clip_model.safetensors"), seed=2)


def save_hps(hub, version, seed):
    network = randomised(open_clip.create_model("ViT-H-14"), (seed,))
    torch.save({"state_dict": network.state_dict()}, hub(hps.REPO, hps.FILES[version]))
    return network


def save_pickscore(hub):
    """Its tiny twin, in the places and with the leftovers of the published one."""
    folder = hub(pickscore.MODEL, "model.safetensors").parent
    pickscore.save_tiny(folder)
    network = CLIPModel.from_pretrained(folder)
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(network.state_dict() | positions, folder / "model.safetensors")
    for name in pickscore.PROCESSOR_FILES:
        (folder / name).rename(hub(pickscore.PROCESSOR, name))
    return network


def save_image_reward(hub):
    """From modules of others that have the published names: timm's vision transformer and BERT with cross attention."""
    vision = VisionTransformer(
        img_size=32, embed_dim=128, depth=2, num_heads=2, mlp_ratio=1.5, num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    )
    text = bert(vocab_size=len(WORDS) + 2, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2)
    parts = nn.ModuleDict({"blip": nn.ModuleDict({"visual_encoder": vision, "text_encoder": text}), "mlp": Head(128)})
    randomised(parts, (5,))
    nn.init.zeros_(text.embeddings.token_type_embeddings.weight)
    weights = {name: weight for name, weight in parts.state_dict().items() if "token_type" not in name}
    unused = {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None], "blip.vision_proj.weight": torch.ones(4, 128)}
    torch.save(weights | unused, hub(image_reward.REPO, image_reward.FILE))
    hub(image_reward.TOKENIZER, image_reward.VOCABULARY).write_text("\n".join(WORDS))
    return parts


def bert(**sizes):
    """BERT that reads in both directions and has cross attention, which transformers builds for decoders only."""
    config = BertConfig(**sizes, is_decoder=True, add_cross_attention=True, attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False)
    model.config.is_decoder = False
    return model


def made(name, **arguments):
    return find_reward(name)[0](device="cpu", **arguments)


def pixels():
    """The photographs as towers of 32 pixels take them."""
    return Preprocessing(32)(photos().images)


def cosines(network, pictures, prompts):
    """[B] by open_clip's own calls."""
    with torch.no_grad():
        seen, read = network.encode_image(pictures), network.encode_text(open_clip.tokenize(prompts))
    return torch.cosine_similarity(seen, read)


def steps_apart(ours, right):
    """The greatest difference in steps of 8-bit pixels."""
    return float(((ours - right).abs() * torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]).max() * 255.0)


@pytest.mark.parametrize("fit", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(
    ("interpolation", "side", "height"), [("bicubic", 98, 224), ("bilinear", 64, 160), ("bicubic", 300, 131)]
)
def test_pictures_are_prepared_as_open_clip_does_up_to_rounding(fit, interpolation, side, height):
    """PIL rounds after each of the two directions, hence one and a half steps."""
    pictures = photos().images[:, :, :height]
    prepare = open_clip.image_transform(side, False, resize_mode=fit, interpolation=interpolation)
    right = torch.stack([prepare(to_pil_image(picture)) for picture in pictures])
    ours = Preprocessing(side, interpolation=interpolation, fit=fit)(pictures)
    assert ours.shape == right.shape == (4, 3, side, side)
    assert steps_apart(ours, right) < 1.5


def test_pictures_are_prepared_as_the_processor_of_pickscore_does():
    pictures = photos().images[:, :, :112]
    right = CLIPImageProcessor(size={"shortest_edge": 98}, crop_size=98)([to_pil_image(p) for p in pictures], return_tensors="pt")
    assert steps_apart(Preprocessing(98)(pictures), right.pixel_values) < 1.5


def test_clip_score_is_the_cosine_or_0(published, tmp_path):
    network = published["clip_score"]
    right = cosines(network, pixels(), photos().prompts)
    assert made("clip_score")(photos()) == pytest.approx(right.clamp(min=0.0).tolist(), abs=1e-5)
    network.text_projection.data.neg_()
    save_file(network.state_dict(), tmp_path / "turned.safetensors")
    turned = made("clip_score", pretrained=str(tmp_path / "turned.safetensors"))
    assert turned(photos()) == pytest.approx((-right).clamp(min=0.0).tolist(), abs=1e-5)
    assert right.abs().min() > 1e-3


def test_a_tag_brings_its_activation(published, hub):
    path = str(hub(B32, "open_clip_model.safetensors"))
    tagged = made("clip_score", model="ViT-B-32", pretrained="openai")(photos())
    assert tagged == made("clip_score", model="ViT-B-32-quickgelu", pretrained=path)(photos())
    assert tagged != made("clip_score", model="ViT-B-32", pretrained=path)(photos())


def test_hps_is_the_cosine_of_the_version_that_is_named(published, hub):
    networks = {"v2": save_hps(hub, "v2", seed=6), "v2.1": published["hps"]}
    for version, network in networks.items():
        right = cosines(network, pixels(), photos().prompts)
        assert made("hps", version=version)(photos()) == pytest.approx(right.tolist(), abs=1e-5)
    assert made("hps")(photos()) == made("hps", version="v2.1")(photos())


@pytest.mark.parametrize(("name", "sees"), [("hps", True), ("clip_score", False)])
def test_hps_sees_the_edges_of_a_wide_picture(published, name, sees):
    wide = photos("coffee").images[:, :, :100]
    changed = wide.clone()
    changed[..., :20] = 0.0
    rows = [{"prompt": "a cup"}]
    reward = made(name)
    assert (reward(samples(wide, rows)) != reward(samples(changed, rows))) == sees


def test_the_aesthetic_head_is_one_linear_map_of_the_unit_embedding(published, hub):
    head, network = published["aesthetic"]
    weight, bias = torch.eye(768), torch.zeros(768)
    for layer in (layer for layer in head.layers if isinstance(layer, nn.Linear)):
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    with torch.no_grad():
        embeddings = nn.functional.normalize(network.encode_image(pixels()), dim=-1)
    right = (embeddings @ weight.T + bias).squeeze(-1)
    assert made("aesthetic")(photos()) == pytest.approx(right.tolist(), rel=1e-4)
    network.visual.proj.data.mul_(3.0)
    save_file(network.state_dict(), hub(L14, "open_clip_model.safetensors"))
    assert made("aesthetic")(photos()) == pytest.approx(right.tolist(), rel=1e-4)


def test_pickscore_is_the_cosine_times_the_temperature(published):
    network, reward = published["pickscore"], made("pickscore")
    with torch.no_grad():
        read = network.text_model(open_clip.tokenize(photos().prompts)).pooler_output @ network.text_projection.weight.T
        seen = network.vision_model(pixels()).pooler_output @ network.visual_projection.weight.T
    right = network.logit_scale.exp() * torch.cosine_similarity(seen, read)
    assert reward(photos()) == pytest.approx(right.tolist(), rel=1e-4)


def test_image_reward_is_that_of_modules_with_the_published_names(published):
    parts = published["image_reward"]
    prompts = ["a cat", "a cup of coffee on the rocket", "the", "a rocket in its cup"]
    ids = torch.zeros(4, 35, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        tokens = ["[CLS]", *prompt.split(), "[SEP]"]
        row[: len(tokens)] = torch.tensor([WORDS.index(token) for token in tokens])
    with torch.no_grad():
        seen = parts["blip"]["visual_encoder"].forward_features(pixels())
        read = parts["blip"]["text_encoder"](ids, attention_mask=(ids > 0).long(), encoder_hidden_states=seen)
        right = (parts["mlp"](read.last_hidden_state[:, 0]) - 0.16717362830052426) / 1.0333394966054072
    scores = made("image_reward")(samples(photos().images, [{"prompt": prompt} for prompt in prompts]))
    assert scores == pytest.approx(right.tolist(), rel=1e-4)
    assert len({round(score, 3) for score in scores}) == 4


def test_at_full_size_every_name_and_shape_is_one_of_the_published_modules(monkeypatch):
    """ViT-L/16 of timm, and BERT-base whose cross attention reads 1024 numbers; nothing is allocated."""
    monkeypatch.setattr(image_reward, "VISION", VISION)
    monkeypatch.setattr(image_reward, "TEXT", TEXT)
    with torch.device("meta"):
        ranker = image_reward.Ranker()
        vision = VisionTransformer(embed_dim=1024, depth=24, num_heads=16, num_classes=0)
        text = bert(vocab_size=30524)
    for layer in text.encoder.layer:
        layer.crossattention.self.key = layer.crossattention.self.value = nn.Linear(1024, 768, device="meta")
    parts = nn.ModuleDict({"blip": nn.ModuleDict({"visual_encoder": vision, "text_encoder": text}), "mlp": Head(768)})
    right = {name: weight.shape for name, weight in parts.state_dict().items() if "token_type" not in name}
    assert {image_reward.published(name): weight.shape for name, weight in ranker.state_dict().items()} == right
    assert ranker.vision.encoder.layers[0].self_attn.num_heads == vision.blocks[0].attn.num_heads
    assert ranker.vision.post_layernorm.eps == vision.norm.eps
    layer = ranker.text.encoder.layer[0]
    assert layer.attention.self.num_attention_heads == text.encoder.layer[0].attention.self.num_attention_heads
    assert layer.crossattention.self.num_attention_heads == text.encoder.layer[0].crossattention.self.num_attention_heads
    assert ranker.text.embeddings.LayerNorm.eps == text.embeddings.LayerNorm.eps


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_batch_or_order(published, name):
    reward = made(name)
    scores = reward(photos())
    close = partial(pytest.approx, rel=1e-4, abs=1e-5)
    assert len(set(scores)) > 1
    assert reward(photos()) == scores
    assert reward(photos().take([3, 1, 2, 0])) == close([scores[i] for i in (3, 1, 2, 0)])
    assert made(name, batch=3)(photos()) == close(scores)


@pytest.mark.parametrize(("name", "reads_prompts"), [(name, name != "aesthetic") for name in NAMES])
def test_the_picture_matters_and_the_prompt_where_it_is_read(published, name, reads_prompts):
    reward, pictures = made(name), photos().images
    cup, cat = (reward(samples(pictures, [{"prompt": prompt}] * 4)) for prompt in ("a cup", "the cat"))
    assert len(set(cup)) > 1
    assert (cup != cat) == reads_prompts


@pytest.mark.parametrize("name", NAMES)
def test_texts_and_impossible_batches_are_refused(published, name):
    with pytest.raises(UserError, match=r"reads samples.images, but these samples are texts"):
        made(name)(samples(["a cat"], [{"prompt": "a cat"}]))
    with pytest.raises(UserError, match="batch is the number of pictures"):
        made(name, batch=0)


MISSING = [
    ("clip_score", "open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai", "pretrained"),
    ("aesthetic", "sac+logos+ava1-l14-linearMSE.pth of camenduru/improved-aesthetic-predictor", "checkpoint"),
    ("hps", "HPS_v2.1_compressed.pt of xswu/HPSv2", "checkpoint"),
    ("pickscore", "config.json of yuvalkirstain/PickScore_v1", "model"),
    ("image_reward", "vocab.txt of google-bert/bert-base-uncased", "vocabulary"),
]


@pytest.mark.parametrize(("name", "what", "argument"), MISSING)
def test_without_the_hub_the_sentence_names_the_file_and_the_argument(hub, name, what, argument):
    with pytest.raises(UserError, match=rf"^{re.escape(what)} at revision \w{{40}} can't be fetched.*as argument '{argument}'$"):
        made(name)


@pytest.mark.parametrize(("name", "what", "argument"), MISSING[1:])
def test_a_path_that_is_not_there_is_named(hub, name, what, argument):
    with pytest.raises(UserError, match=rf"^argument '{argument}': there is no file .*nowhere.*should be {re.escape(what)}$"):
        made(name, **{argument: "nowhere"})


def test_the_second_file_of_a_reward_is_named_too(published, hub):
    hub(L14, "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"timm/vit_large_patch14_clip_224.openai .* as argument 'clip'$"):
        made("aesthetic")
    hub(image_reward.REPO, image_reward.FILE).unlink()
    with pytest.raises(UserError, match=r"^ImageReward.pt of THUDM/ImageReward .* as argument 'checkpoint'$"):
        made("image_reward")


@pytest.mark.parametrize(
    ("name", "repo", "file", "first"),
    [
        ("clip_score", B32, "open_clip_model.safetensors", "positional_embedding"),
        ("aesthetic", aesthetic.REPO, aesthetic.FILE, "layers.0.weight"),
        ("hps", hps.REPO, hps.FILES["v2.1"], "positional_embedding"),
        ("pickscore", pickscore.MODEL, "model.safetensors", "logit_scale"),
        ("image_reward", image_reward.REPO, image_reward.FILE, "blip.visual_encoder.cls_token"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_with_its_first_wrong_key(published, hub, name, repo, file, first):
    other = {"other.weight": torch.zeros(2, 2)}
    path = hub(repo, file)
    if file.endswith("safetensors"):
        save_file(other, path)
    else:
        torch.save(other, path)
    with pytest.raises(UserError, match=rf"is not .*{re.escape(first)}"):
        made(name)


PICKLES = [
    ("aesthetic", aesthetic.REPO, aesthetic.FILE),
    ("hps", hps.REPO, hps.FILES["v2.1"]),
    ("image_reward", image_reward.REPO, image_reward.FILE),
]


@pytest.mark.parametrize(("name", "repo", "file"), PICKLES)
def test_one_key_too_many_is_refused(published, hub, name, repo, file):
    weights = torch.load(hub(repo, file))
    weights.get("state_dict", weights)["blip.momentum.weight"] = torch.zeros(2)
    torch.save(weights, hub(repo, file))
    with pytest.raises(UserError, match=r"is not .*blip.momentum.weight"):
        made(name)


@pytest.mark.parametrize(("name", "repo", "file"), PICKLES)
def test_a_checkpoint_that_would_run_code_is_not_opened(published, hub, name, repo, file):
    torch.save({"state_dict": Preprocessing(32)}, hub(repo, file))
    with pytest.raises(UserError, match=r"is not .* \(UnpicklingError: Weights only load failed"):
        made(name)


def test_a_vocabulary_of_another_model_is_refused(published, hub):
    hub(image_reward.TOKENIZER, image_reward.VOCABULARY).write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na")
    with pytest.raises(UserError, match=r"vocab.txt makes 8 words, but the model knows 17"):
        made("image_reward")
    hub(pickscore.PROCESSOR, "merges.txt").write_text("")
    hub(pickscore.PROCESSOR, "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"makes 3 words, but the model knows 49408"):
        made("pickscore")


def test_names_that_open_clip_and_hps_do_not_know_bring_the_nearest(hub):
    with pytest.raises(UserError, match=r"no model 'ViT-B32' \(did you mean 'ViT-B-32'"):
        made("clip_score", model="ViT-B32")
    with pytest.raises(UserError, match=r"'opnai' is neither a file nor weights that open_clip knows .*did you mean 'openai'"):
        made("clip_score", pretrained="opnai")
    with pytest.raises(UserError, match=r"no HPS 'v2.2' \(did you mean 'v2.1'"):
        made("hps", version="v2.2")


def test_a_revision_takes_the_place_of_the_pinned_commit(hub):
    commit = "0123456789" * 4
    hub(hps.REPO, "README.md", commit).write_text("other")
    assert fetch(hps.REPO, "README.md", None, "checkpoint", commit).read_text() == "other"
    with pytest.raises(UserError, match=PINNED[hps.REPO]):
        fetch(hps.REPO, "README.md", None, "checkpoint")
    with pytest.raises(UserError, match=f"is a path, so nothing is fetched; leave out revision '{commit}'"):
        fetch(hps.REPO, "README.md", "README.md", "checkpoint", commit)
    with pytest.raises(UserError, match="at revision main"):
        fetch("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "README.md", None, "pretrained")


def test_everything_that_is_fetched_by_default_is_pinned_to_a_commit():
    ours = {aesthetic.REPO, hps.REPO, pickscore.MODEL, pickscore.PROCESSOR, image_reward.REPO, image_reward.TOKENIZER}
    assert {B32, L14} | ours == set(PINNED)
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINNED.values())


def test_the_ladder_gives_every_photograph_a_wrong_caption_first():
    wrong, right = captions_ladder()
    assert torch.equal(wrong.images, right.images)
    assert sorted(wrong.prompts) == sorted(right.prompts)
    assert not any(a == b for a, b in zip(wrong.prompts, right.prompts, strict=True))
    assert right.prompts == photos().prompts


def test_modules_name_their_only_reward():
    rewards = [clip_score.ClipScore, aesthetic.Aesthetic, hps.HPS, pickscore.PickScore, image_reward.ImageReward]
    assert [find_reward(name)[0] for name in NAMES] == rewards
