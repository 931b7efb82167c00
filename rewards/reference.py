"""How close is a picture to a reference picture? To check for reward hacking, or to fit a picture.

A row names its reference by a path inside the reward's folder, as `asset:NAME` of what ships with flowgrpo, or as `picture:NAME`
of what rows from the hub came with; nothing outside of them is read, so both rewards can be served. References are resized to the
samples.

B samples of H x W pixels.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import AlexNet, AlexNet_Weights
from torchvision.transforms.functional import to_tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import ASSET, PICTURE, locate
from flowgrpo.data.media import look, read
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import bad_row, stated
from flowgrpo.rewards._hub import reading, tensors, torchvision_weights
from flowgrpo.rewards._package import device_of, package
from flowgrpo.rewards._package import folder as folder_of
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import blurred, photos
from flowgrpo.scoring.twins import Arguments, randomised, tiny

BATCH = 16
BICUBIC = Image.Resampling.BICUBIC
LEAST = 32
SLICES = (0, 2, 5, 8, 10, 12)
"""Where lpips cuts AlexNet's features: after each ReLU."""


def _ladder() -> list[Samples]:
    """Another photograph, a blurred one, and the photograph itself."""
    rows = [{"reference": f"{ASSET}calibration/coffee.jpg"}]
    shown = (photos("rocket"), blurred(photos("coffee"), 2.0), photos("coffee"))
    return [replace(samples, metadata=rows) for samples in shown]


compared = partial(
    card,
    reads="images",
    row='{"reference": path inside the argument folder, "asset:NAME" or "picture:NAME"}',
    ladder=_ladder,
    check=lambda reward, prompt: reward.references.look(prompt.metadata),
)


class References:
    """The references of samples, from inside a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser().resolve()
        if not self.folder.is_dir():
            raise UserError(f"argument 'folder': there is no folder {folder}")

    def __call__(self, samples: Samples) -> Tensor:
        """[B, 3, H, W]"""
        height, width = samples.images.shape[2:]
        names = [_name(row) for row in samples.metadata]
        pictures = {name: self._picture(name).resize((width, height), BICUBIC) for name in dict.fromkeys(names)}
        return torch.stack([to_tensor(pictures[name]) for name in names])

    def look(self, row: dict[str, Any]) -> None:
        """Is the reference of this row there, and a picture?"""
        path = self._path(name := _name(row))
        with _explained(name):
            look(path, "image")

    def _picture(self, name: str) -> Image.Image:
        path = self._path(name)
        with _explained(name):
            return Image.fromarray(read(path, "image"))

    def _path(self, name: str) -> Path:
        scheme = next((scheme for scheme in (ASSET, PICTURE) if name.startswith(scheme)), "")
        root = locate(scheme).resolve() if scheme else self.folder
        inside = Path(name.removeprefix(scheme))
        if inside.is_absolute() or ".." in inside.parts or "\0" in name or not (root / inside).resolve().is_relative_to(root):
            raise UserError(f"the reference '{name}' leads out of the folder of references; name a file inside of it")
        return root / inside


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Without the folder, which is not the business of a client."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"there is no picture '{name}' in the folder of references that can be read: a whole one, of one frame and with "
            "8 bits per channel"
        ) from error


def _name(row: dict[str, Any]) -> str:
    name = stated(row, "reference", "the path of a picture")
    if not isinstance(name, str):
        raise bad_row(row, "reference", "the path of a picture")
    return name


@compared(
    range=(-1.0, 0.0),
    better="pixels closer to the reference's: minus the root mean square difference",
    licence="Apache-2.0",
    source="flowgrpo",
)
class Pixels:
    def __init__(self, folder: str = ".") -> None:
        self.references = References(folder)

    def __call__(self, samples: Samples) -> list[float]:
        return (-(samples.images - self.references(samples)).square().mean((1, 2, 3)).sqrt()).tolist()


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    """Random convolutions; the layers behind them, which LPIPS does not use, are one number each."""
    with torch.device("meta"):
        network = AlexNet()
    state = {name: torch.zeros(1).expand(weight.shape) for name, weight in network.state_dict().items()}
    features = randomised(network.features.to_empty(device="cpu"), ("alexnet",)).state_dict()
    torch.save(state | {f"features.{name}": 0.1 * weight for name, weight in features.items()}, folder / "alexnet.pth")
    return {**arguments, "backbone": str(folder / "alexnet.pth")}


@tiny(_tiny)
@compared(
    range=(-math.inf, 0.0),
    better="looks more like the reference: minus LPIPS",
    licence="BSD-2-Clause (lpips), BSD-3-Clause (torchvision's AlexNet)",
    source="LPIPS 0.1 on AlexNet, arXiv 1801.03924",
)
class Lpips:
    """`backbone` is the path of torchvision's `alexnet-owt-7be5be79.pth`; torchvision fetches it if none is given."""

    def __init__(self, backbone: str | None = None, folder: str = ".", device: str = "auto") -> None:
        self.references, self.device = References(folder), device_of(device)
        self.network = _lpips(_fetched() if backbone is None else _read(backbone)).eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, samples: Samples) -> list[float]:
        if min(samples.images.shape[2:]) < LEAST:
            raise UserError(f"LPIPS needs pictures of at least {LEAST} x {LEAST} pixels, not {list(samples.images.shape[2:])}")
        pairs = zip(samples.images.split(BATCH), self.references(samples).split(BATCH), strict=True)
        distances = [self.network(a.to(self.device), b.to(self.device), normalize=True).flatten() for a, b in pairs]
        return (-torch.cat(distances)).tolist()


def _fetched() -> AlexNet:
    return _alexnet(torchvision_weights(AlexNet_Weights.IMAGENET1K_V1, "backbone"))


def _read(backbone: str) -> AlexNet:
    path = Path(backbone).expanduser()
    with reading(path, "a state dict of torchvision's AlexNet"):
        return _alexnet(tensors(path))


def _alexnet(state: Mapping[str, Tensor]) -> AlexNet:
    with torch.device("meta"):
        network = AlexNet()
    network.load_state_dict(state, assign=True)
    return network


def _lpips(backbone: AlexNet) -> nn.Module:
    """The metric of the package, with this backbone."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        network = package("lpips").LPIPS(pretrained=False, pnet_rand=True, verbose=False)
    heads = tensors(folder_of("lpips") / "weights" / "v0.1" / "alex.pth")
    network.load_state_dict(heads, strict=False, assign=True)
    for number, (first, last) in enumerate(pairwise(SLICES), 1):
        network.net.set_submodule(f"slice{number}", backbone.features[first:last])
    return network
