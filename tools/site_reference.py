"""The pages of the documentation that are generated from the code: config keys, components, commands, names, what ships."""

import ast
import importlib
import inspect
import io
import re
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import flowgrpo
from flowgrpo.cli._parser import Parser
from flowgrpo.cli.main import COMMANDS
from flowgrpo.config.methods import Method, methods
from flowgrpo.config.recipes import METHODS, TASKS, facts, fitting, models, read_recipe
from flowgrpo.config.recipes import shipped as shipped_recipes
from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import built_in_names
from flowgrpo.core.plugins import shipped as shipped_components
from flowgrpo.core.section import Component, Section, class_of, package_of
from flowgrpo.data.context import Context
from flowgrpo.data.prompt_sampler import PromptSampler
from flowgrpo.evaluation.benchmarks.benchmark import PACKAGE as BENCHMARKS
from flowgrpo.evaluation.benchmarks.catalogue import find_benchmark
from flowgrpo.objective.auxiliary import Auxiliary
from flowgrpo.objective.baseline import Baseline
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.credit import Credit
from flowgrpo.objective.decision_weight import DecisionWeight
from flowgrpo.objective.modifier import Modifier
from flowgrpo.objective.ratio import Ratio
from flowgrpo.objective.selection import Selection
from flowgrpo.objective.surrogate import Surrogate
from flowgrpo.objective.transform import Transform
from flowgrpo.policies import PolicyConfig
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.likelihood import Likelihood
from flowgrpo.sampling.noising import Levels
from flowgrpo.sampling.plans import Plan
from flowgrpo.scoring.catalogue import shipped as shipped_rewards
from flowgrpo.scoring.scorer import find_reward

ROOT = Path(__file__).parents[1]
KINDS: dict[str, type[Component]] = {
    "policy": PolicyConfig,
    "plan": Plan,
    "kernel": Kernel,
    "context": Context,
    "transform": Transform,
    "credit": Credit,
    "baseline": Baseline,
    "modifier": Modifier,
    "prompt_sampler": PromptSampler,
    "selection": Selection,
    "ratio": Ratio,
    "surrogate": Surrogate,
    "bounds": Bounds,
    "weight": DecisionWeight,
    "auxiliary": Auxiliary,
    "likelihood": Likelihood,
    "levels": Levels,
}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
HUGE = 10**9
WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any"}


def prose(target: Any) -> str:
    """A docstring as Markdown; examples become code."""
    text = inspect.getdoc(target) or ""
    return re.sub(r"(?:^>>> .*\n?(?:.+\n?)*)", lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text, flags=re.MULTILINE)


def table(heading: list[str], rows: list[list[str]]) -> str:
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heading, ["---"] * len(heading), *cells])


def code(value: Any) -> str:
    return f"`{value}`"


def type_text(annotation: Any, metadata: list[Any] | None = None) -> str:
    """`number > 0`, `plain or guard`, `a kernel`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = type_text(parts[0], list(parts[1:]))
    elif origin is Literal:
        text = " or ".join(map(str, parts))
    elif origin in (Union, UnionType):
        text = " or ".join("null" if part is NoneType else type_text(part) for part in parts)
    elif origin in (tuple, list):
        text = f"list of {_several(parts[0])}" if parts[1:] in ((), (...,)) else f"[{', '.join(map(type_text, parts))}]"
    elif origin is dict:
        text = f"mapping to {_several(parts[1])}"
    elif isinstance(annotation, type):
        text = _class_text(annotation)
    else:
        text = str(annotation).rpartition(".")[2]
    return text + _bounds(metadata or [])


def _bounds(metadata: list[Any]) -> str:
    """Those of numbers that somebody might meet."""
    limits = [(sign, getattr(bound, key)) for bound in metadata for key, sign in BOUNDS.items() if hasattr(bound, key)]
    said = [f"{sign} {limit:,}" for sign, limit in limits if limit < HUGE]
    return " " + ", ".join(said) if said else ""


def _several(annotation: Any) -> str:
    text = WORDS.get(annotation) or type_text(annotation).removeprefix("a ")
    if text == "any" or " or " in text:
        return text.replace("any", "anything")
    return re.sub(r"^[\w ]+?(?= [<>]|$)", r"\g<0>s", text)


def _class_text(annotation: type) -> str:
    kind = next((name for name, base in KINDS.items() if annotation is base), None)
    if kind:
        return f"a {kind}"
    return "section" if issubclass(annotation, Section) else WORDS.get(annotation, annotation.__name__)


def default_text(field: FieldInfo) -> str:
    """What a config has where it says nothing."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Component):
        return code(value.type)
    if isinstance(value, Section):
        return "its own defaults"
    return code("null" if value is None else yaml.safe_dump(_plain(value), default_flow_style=True).split("\n")[0])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def fields_table(section: type[BaseModel], base: type[BaseModel] | None = None) -> str:
    """The keys of a section, without those of `base`."""
    inherited = base.model_fields if base else {}
    fields = {key: field for key, field in section.model_fields.items() if key not in inherited and key != "type"}
    rows = [[code(key), type_text(f.annotation, f.metadata), default_text(f)] for key, f in fields.items()]
    return table(["key", "type", "default"], rows) if rows else ""


def config() -> str:
    """All sections of a run's config, by their keys."""
    parts = []
    for path, section in _sections(Config, ""):
        parts += [f"## `{path}`" if path else "## The whole", prose(section), fields_table(section)]
    return "\n\n".join(parts)


def _sections(section: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for key, field in section.model_fields.items():
        many = get_origin(field.annotation) is dict
        for inner in _inner(field.annotation):
            yield from _sections(inner, ".".join(filter(None, [path, key, "LABEL" if many else ""])))


def _inner(annotation: Any) -> list[type[Section]]:
    """The sections of an annotation; components are on a page of their own."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [] if issubclass(annotation, Component) else [annotation]
    return [inner for part in get_args(annotation) for inner in _inner(part)]


def components() -> str:
    """All components that a config chooses by `type`, by kind."""
    parts = []
    for kind, base in KINDS.items():
        parts += [f"## {kind.capitalize()}", prose(base), fields_table(base)]
        for name in shipped_components(package_of(base)):
            chosen = class_of(name, base)
            parts += [
                f"### `{name}` {{ #{kind}-{name} }}",
                prose(chosen),
                fields_table(chosen, base),
                *_own_sections(chosen, base),
            ]
    return "\n\n".join(filter(None, parts))


def _own_sections(chosen: type[Section], base: type[Section]) -> list[str]:
    """The sections inside a component, by their keys."""
    own = [key for key in chosen.model_fields if key not in base.model_fields]
    found = [pair for key in own for inner in _inner(chosen.model_fields[key].annotation) for pair in _sections(inner, key)]
    return [text for path, section in found for text in (f"`{path}`: {prose(section)}", fields_table(section))]


def commands() -> str:
    """Every command with its arguments."""
    return "\n\n".join(part for name, summary in COMMANDS.items() for part in _command(name, summary))


def parser_of(name: str) -> Parser:
    """The parser of a command, as `flowgrpo` has it."""
    parser = Parser(prog=f"flowgrpo {name}")
    importlib.import_module(f"flowgrpo.cli.{name.replace('-', '_')}").arguments(parser)
    return parser


def _command(name: str, summary: str) -> list[str]:
    parser = parser_of(name)
    shown = [action for action in parser.arguments if action.help != SUPPRESS and action.dest != "help"]
    rows = [[_spelling(action), (action.help or "") % {"default": action.default}] for action in shown]
    return [f"## `flowgrpo {name}` {{ #{name} }}", f"{summary[0].upper()}{summary[1:]}.", table(["argument", "what"], rows)]


def _spelling(action: Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else ("" if action.nargs == 0 else action.dest.upper())
    many = " ..." if action.nargs in ("*", "+") else ""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else value
    return code(" ".join(filter(None, [", ".join(action.option_strings), choices])) + many)


def api() -> str:
    """Every public name of `flowgrpo`."""
    parts = []
    for name in flowgrpo.__all__:
        target = getattr(flowgrpo, name)
        parts += [f"## `{name}`", *(_module(target) if isinstance(target, ModuleType) else _object(name, target))]
    return "\n\n".join(filter(None, parts))


def _module(module: ModuleType) -> list[str]:
    kind = next(kind for kind, base in KINDS.items() if package_of(base) == module.__name__)
    names = {place.name: name for name, place in shipped_components(module.__name__).items()}
    listed = [f"[`{cls}`](components.md#{kind}-{name})" for cls, name in sorted(names.items())]
    return [prose(module), f"Classes: {', '.join(listed)}."]


def _object(name: str, target: Any) -> list[str]:
    if not isinstance(target, type):
        return [
            _signature(name, target) if inspect.isfunction(target) else "",
            prose(target) if inspect.isfunction(target) else "",
        ]
    if issubclass(target, Section):
        return [prose(target), fields_table(target)]
    members = [(key, _function(value)) for key, value in vars(target).items() if not key.startswith("_")]
    public = [(key, function) for key, function in members if function and function.__doc__]
    own = "__init__" in vars(target) and inspect.getsourcefile(target.__init__) == inspect.getsourcefile(target)
    made = [_signature(name, target.__init__)] if own else []
    shown = [text for key, function in public for text in (f"### `{name}.{key}`", _signature(key, function), prose(function))]
    return [*made, prose(target), *shown]


def _function(value: Any) -> Any:
    """The function of a method, property or constructor."""
    if isinstance(value, property):
        return value.fget
    function = getattr(value, "func", getattr(value, "__func__", value))
    return function if inspect.isfunction(function) else None


def _signature(name: str, function: Any) -> str:
    """As it is written in the source."""
    node = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    assert isinstance(node, ast.FunctionDef)
    given = ast.unparse(node.args).removeprefix("self").removeprefix("cls").removeprefix(", ")
    result = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({given}){result}"
    if len(line) > 90:
        line = f"{name}(\n    " + ",\n    ".join(_arguments(given)) + f",\n){result}"
    return f"```python\n{line}\n```"


def _arguments(given: str) -> list[str]:
    """Split at the commas that no bracket holds."""
    parts, depth = [""], 0
    for sign in given:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def rewards() -> str:
    rows = []
    for name in shipped_rewards():
        _, card = find_reward(name)
        low, high = card.range
        rows.append(
            [
                code(name),
                card.reads or "anything",
                f"{low:g} to {high:g}".replace("-inf to inf", "any number"),
                card.better,
                card.row,
                card.licence,
            ]
        )
    return table(["reward", "reads", "range", "a higher score means", "prompt rows hold", "licence"], rows)


def benchmarks() -> str:
    rows = []
    for name in built_in_names(BENCHMARKS):
        benchmark = find_benchmark(name)
        try:
            with redirect_stderr(io.StringIO()):
                count = str(len(benchmark.load(None)))
        except UserError:
            count = "your `--file`"
        used = ", ".join(dict.fromkeys(code(reward.use or reward.url) for reward in benchmark.rewards.values()))
        rows.append([code(name), benchmark.summary, count, str(benchmark.samples_per_prompt), used, benchmark.licence])
    return table(["benchmark", "what", "prompts", "samples of each", "rewards", "licence"], rows)


def model_table() -> str:
    rows = []
    for name in models():
        about, tree = facts(name), read_recipe([name]).tree
        said = code(name), code(tree["policy"].get("model", "yours")), about.makes or "", about.licence or ""
        rows.append([*said, *(f"{len(fitting(name, kind))}" for kind in (METHODS, TASKS))])
    return table(["model", "weights", "makes", "licence", "methods", "tasks"], rows)


def method_table() -> str:
    rows = [
        [f"[`{method.name}`](../methods/{method.name}.md)", method.summary, _choices(method), *_origin(method)]
        for method in methods()
        if method.kind == "method"
    ]
    return table(["method", "in a sentence", "what it chooses", "needs", "source", "formula"], rows)


def rule_table() -> str:
    rows = []
    for rule in (method for method in methods() if method.kind == "rule"):
        changes = ", ".join(code(f"{section}: {_in_short(value)}") for section, value in rule.sets.items())
        latents, ids = "diffusers" in rule.trains, {"masked", "amused"} & {*rule.trains}
        trains = ", ".join(word for word, so in (("latents", latents), ("ids", ids)) if so)
        rows.append([code(rule.name), rule.summary, changes, trains, *_origin(rule)])
    return table(["rule", "in a sentence", "what it sets", "trains", "needs", "source", "formula"], rows)


def _choices(method: Method) -> str:
    return ", ".join(f"{slot} {code(choice)}" for slot, choice in method.slots.items())


def _origin(method: Method) -> list[str]:
    """What it needs, where it is from, whose formula it is."""
    number = method.source.removeprefix("arXiv ")
    source = method.source if number == method.source else f"[{method.source}](https://arxiv.org/abs/{number})"
    return [", ".join(method.needs) or "nothing", source, method.formula]


def _in_short(value: Any) -> str:
    """YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=HUGE, sort_keys=False).strip().removesuffix("\n...")


def task_table() -> str:
    rows = []
    for name in shipped_recipes(TASKS):
        about = facts(name)
        loads = ", ".join(map(code, about.downloads)) or "nothing"
        rows.append([code(name), ", ".join(about.judges), about.summary, loads, about.licence])
    return table(["task", "judges", "what", "downloads", "licence"], rows)


INSERTS = {
    "config": config,
    "components": components,
    "commands": commands,
    "api": api,
    "rewards": rewards,
    "benchmarks": benchmarks,
    "models": model_table,
    "methods": method_table,
    "rules": rule_table,
    "tasks": task_table,
}
