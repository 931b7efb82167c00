"""What the README and the documentation say is true: commands, samples of code, links."""

import ast
import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import flowgrpo
import site_reference
from flowgrpo.cli._parser import Parser, parse
from flowgrpo.cli.main import COMMANDS
from flowgrpo.config.recipes import METHODS, RULES, shipped
from flowgrpo.config.run import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:py|yaml))\b.*\n")
STANDS_FOR = {"runs/RUN", "runs/OTHER", "A", "B"}


class Block(NamedTuple):
    page: str
    language: str
    text: str


class Command(NamedTuple):
    page: str
    words: list[str]

    def __str__(self) -> str:
        return " ".join([self.page, *self.words])


def blocks() -> list[Block]:
    found = [(page, block) for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [Block(str(page.relative_to(ROOT)), language, text) for page, (_, language, text) in found]


def commands() -> list[Command]:
    """Of blocks and of sentences, without what is before `flowgrpo` (torchrun)."""
    lines = [(b.page, line) for b in blocks() if not b.language for line in b.text.replace("\\\n", " ").splitlines()]
    for page in PAGES:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        lines += [(str(page.relative_to(ROOT)), said) for said in re.findall(r"`(flowgrpo [a-z-]+ [^`\n]+)`", text)]
    said = [
        (page, re.search(r"\bflowgrpo (?=[a-z-]+)(.*)", line)) for page, line in lines if re.match(r" *(flowgrpo|torchrun)", line)
    ]
    return [Command(page, [w for w in shlex.split(line[1], comments=True) if w != "&"]) for page, line in said if line]


def examples() -> dict[str, str]:
    """Files that a page tells its reader to write."""
    named = [(FILE.match(block.text), block.text) for block in blocks()]
    return {found[1]: text for found, text in named if found}


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The folder of someone who has written all these files, and has the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name, text in examples().items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_is_understood(command, reader):
    name = command.words[0]
    assert name in COMMANDS
    own, top = site_reference.parser_of(name), Parser(prog="flowgrpo")
    top.add_subparsers(dest="command").add_parser(name, parents=[own], add_help=False, conflict_handler="resolve")
    arguments = parse(top, own, command.words)
    for words in sentences(name, arguments):
        if not STANDS_FOR & {*words}:
            load_config(words, arguments.overrides)


def sentences(command: str, arguments: Namespace) -> list[list[str]]:
    """The recipes of a command."""
    if command == "study":
        return [[word] for word in arguments.configs]
    if command == "credit":
        return [[arguments.model, method] for method in arguments.methods]
    if command == "bench":
        return [arguments.config] if len(arguments.config) > 1 else []
    return [arguments.config] if command in ("train", "plan") else []


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=lambda b: b.text[:40])
def test_a_sample_of_code_is_python_and_uses_what_there_is(block):
    ast.parse(block.text)
    for name, below in re.findall(r"\bfg\.(\w+)(?:\.(\w+))?", block.text):
        found = getattr(flowgrpo, name)
        assert not below or hasattr(found, below)


@pytest.mark.parametrize("name", examples())
def test_a_file_that_the_reader_writes_works(name, reader):
    if name.endswith(".yaml"):
        load_config(name)
    else:
        exec(compile(Path(name).read_text(), name, "exec"), {"__name__": "example"})


def test_a_sample_of_yaml_is_yaml():
    for block in blocks():
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_method_has_a_page_with_its_recipe():
    for name in shipped(METHODS):
        text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert f"<!-- insert: recipe {name} -->" in text and f"<!-- insert: measured {name} -->" in text


def test_every_method_and_rule_names_tests_of_its_formula_that_there_are():
    text = (ROOT / "docs" / "methods" / "checked.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert {*rows} == {*shipped(METHODS), *shipped(RULES)}
    for name, cell in rows.items():
        checks = re.findall(r"`([\w/]+\.py)`: ([\w ]+)", cell)
        assert checks, name
        for file, says in checks:
            test = f"def test_{says.strip().replace(' ', '_')}("
            assert test in (ROOT / "tests" / file).read_text(encoding="utf-8"), (name, says)


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]:
        assert str(page.relative_to(ROOT / "docs").with_suffix(".md")) in text


def test_the_readme_is_short_and_begins_with_what_people_want():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    begin = "\n".join(lines[:60])
    assert all(word in begin for word in ("sd3.5-medium", "flux.1-dev", "prompts", "make quickstart", "make test"))
    assert "No method is shown to beat Flow-GRPO" in "\n".join(lines)


@pytest.mark.parametrize("name", ["config", "components", "commands", "models", "methods", "rules", "tasks"])
def test_reference_pages_say_everything(name):
    text = site_reference.INSERTS[name]()
    wanted = {
        "config": ["`rollout`", "`optimizer`", "group_size"],
        "components": ["`comb`", "`flow_sde`", "`turning_point`", "`best_worst`", "`quadrature`", "`sigmoid`", "`joint`"],
        "commands": [f"`flowgrpo {command}`" for command in COMMANDS],
        "models": ["`sd3.5-medium`", "`mini`"],
        "methods": [f"`{method}`" for method in shipped(METHODS)],
        "rules": [f"`{rule}`" for rule in shipped(RULES)],
        "tasks": ["`ocr`", "`countdown`"],
    }
    assert all(word in text for word in wanted[name])
