"""A version is one number, wherever it is said."""

import re
import tomllib
from pathlib import Path

import yaml

import flowgrpo
from flowgrpo.core.moved import GOES

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert stated == flowgrpo.__version__ == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert re.search(rf"^## \[{re.escape(stated)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_what_is_old_goes_with_a_later_version():
    assert [int(part) for part in GOES.split(".")] > [int(part) for part in flowgrpo.__version__.split(".")]
