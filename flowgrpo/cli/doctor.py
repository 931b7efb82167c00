"""`flowgrpo doctor [--json]`."""

import argparse
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement


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
    """flowgrpo and what it needs, those of its extras for users included."""
    needed = [Requirement(line) for line in requires("flowgrpo") or []]
    used = [need for need in needed if not need.marker or not need.marker.evaluate({"extra": "dev"})]
    return {"flowgrpo": version("flowgrpo"), **{need.name: _version(need) for need in used}}


def _version(need: Requirement) -> str:
    try:
        return version(need.name)
    except PackageNotFoundError:
        return f"not installed ({need.marker})" if need.marker else "not installed"


def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu cores": os.cpu_count(),
        "gpus": ", ".join(gpus) or "none",
        "bf16": torch.cuda.is_bf16_supported() if gpus else True,
        "free disk (GiB)": round(shutil.disk_usage(".").free / 2**30, 1),
    }
