"""What pyproject.toml can't say: all packages are found, and four folders of the top level are installed inside flowgrpo."""

from setuptools import find_packages, setup

INSIDE = ("rewards", "eval", "configs", "assets")

setup(
    packages=[*find_packages(include=["flowgrpo", "flowgrpo.*"]), *(f"flowgrpo.{folder}" for folder in INSIDE)],
    package_dir={f"flowgrpo.{folder}": folder for folder in INSIDE},
)
