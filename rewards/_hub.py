"""Published weights: where on the hub they are, at which commit, and how they are read without running anything in them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum

from flowgrpo.core.errors import UserError

PINNED = {
    "timm/vit_base_patch32_clip_224.openai": "a6f597a30f7b82c51704746581f9a4e41421e878",
    "timm/vit_large_patch14_clip_224.openai": "18d0535469bb561bf468d76c1d73aa35156c922b",
    "camenduru/improved-aesthetic-predictor": "7b2449be1264fcd9a1cf92e3d30dd29af989c836",
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    "xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a",
    "THUDM/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
}
"""The commit of each repository that is fetched where the user names no revision; any other repository is taken at `main`."""


def pinned(repo: str) -> str:
    """The revision at which a repository is taken where the user names none."""
    return PINNED.get(repo, "main")


def fetch(repo: str, name: str, local: str | Path | None, argument: str, revision: str | None = None) -> Path:
    """The file `local`, or `name` of a repository of the hub; `argument` is what the user calls `local`."""
    if local is not None:
        return _existing(Path(local).expanduser(), f"{name} of {repo}", argument, revision)
    revision = revision or pinned(repo)
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except OSError as error:
        raise UserError(
            f"{name} of {repo} at revision {revision} can't be fetched from the hub ({type(error).__name__}); "
            f"download it and give its path as argument '{argument}'"
        ) from error


def fetch_folder(repo: str, names: Sequence[str], local: str | None, argument: str, revision: str | None = None) -> Path:
    """The folder that holds all of `names`."""
    files = [fetch(repo, name, local and Path(local) / name, argument, revision) for name in names]
    return files[0].parent


def torchvision_weights(published: WeightsEnum, argument: str) -> Mapping[str, Tensor]:
    """The state dict that torchvision publishes; `argument` is what the user calls a copy of it."""
    try:
        return published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"torchvision's weights can't be fetched ({error}); download {published.url} and name it as argument '{argument}'"
        ) from error


def _existing(path: Path, what: str, argument: str, revision: str | None) -> Path:
    if revision is not None:
        raise UserError(f"argument '{argument}' is a path, so nothing is fetched; leave out revision '{revision}'")
    if not path.exists():
        raise UserError(f"argument '{argument}': there is no file {path}, which should be {what}")
    return path


def tensors(path: Path) -> Mapping[str, Tensor]:
    """A state dict of safetensors or PyTorch; nothing but tensors and plain containers is unpickled."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong inside means that `path` is not `what`; the first words of the reason name the first wrong keys."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        raise UserError(f"{path} is not {what} ({type(error).__name__}: {reason})") from error


def check_vocabulary(path: Path, words: int, expected: int) -> None:
    if words != expected:
        raise UserError(f"{path} makes {words} words, but the model knows {expected}; give it its own vocabulary")
