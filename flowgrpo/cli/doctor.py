"""`flowgrpo doctor [--json]`."""

import argparse
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "flowgrpo",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "open_clip_torch",
    "safetensors",
    "pydantic",
    "opencv-python-headless",
    "xformers",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    facts = {"python": platform.python_version(), "system": platform.platform(), **_machine(), **_packages()}
    if arguments.json:
        print(json.dumps(facts))
    else:
        width = max(len(key) for key in facts)
        print("\n".join(f"{key:<{width}}  {value}" for key, value in facts.items()))
    return 0


def _packages() -> dict[str, str]:
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu cores": os.cpu_count(),
        "gpus": ", ".join(gpus) or "none",
        "bf16": torch.cuda.is_bf16_supported() if gpus else True,
        "free disk (GiB)": round(shutil.disk_usage(".").free / 2**30, 1),
    }
