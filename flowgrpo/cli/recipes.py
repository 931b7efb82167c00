"""`flowgrpo recipes [NAME ...] [--json]`: the models, methods, rules and tasks that ship, or what goes with some models."""

import argparse
import json
from typing import Any

from flowgrpo.cli.plan import gib
from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import METHODS, MODELS, RULES, TASKS, facts, fitting, models, read_recipe, shipped, tasks
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.pages.tables import markdown_table

Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only what goes with this model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    if unknown := next((name for name in arguments.models if name not in models()), None):
        raise UserError(f"no shipped model '{unknown}' ({nearest(unknown, models())})")
    chosen = arguments.models or models()
    methods = {model: fitting(model, METHODS) for model in chosen}
    ruled = {rule for model in chosen for rule in fitting(model, RULES)}
    judged = {task for model in chosen for task in fitting(model, TASKS)}
    tables = {
        MODELS: [_model(name, methods[name]) for name in chosen],
        METHODS: [_method(name) for name in shipped(METHODS) if any(name in fit for fit in methods.values())],
        RULES: [_rule(name) for name in shipped(RULES) if name in ruled],
        TASKS: [_task(name) for name in tasks() if name in judged],
        "whole recipes": [] if arguments.models else [{"name": name} for name in shipped()],
    }
    print(json.dumps(tables) if arguments.json else "\n\n".join(_shown(name, rows) for name, rows in tables.items() if rows))
    return 0


def _model(name: str, methods: list[str]) -> Row:
    """Memory is that of its published recipe, with its own task."""
    method = next(method for method in ("flow_grpo", "diffu_grpo", "trajectory") if method in methods)
    config, about = load_config([name, method]), facts(name)
    bill = bill_of(config)
    return {
        "name": name,
        "makes": about.makes,
        "model": read_recipe(name).tree["policy"]["model"],
        "licence": about.licence,
        "weights": f"{gib(sum(bill['memory_bytes']['load'].values()))} GiB",
        "memory": f"{gib(bill['peak_memory_bytes'])} GiB ({method})",
    }


def _method(name: str) -> Row:
    about = facts(name)
    return {"name": name, "trains": ", ".join(about.policies), "what": about.summary}


def _rule(name: str) -> Row:
    about = facts(name)
    return {"name": name, "trains": ", ".join(about.policies) or "all", "what": about.summary, "formula": about.formula}


def _task(name: str) -> Row:
    about = facts(name)
    return {
        "name": name,
        "judges": ", ".join(about.judges),
        "what": about.summary,
        "licence": about.licence,
        "downloads": ", ".join(about.downloads) or "nothing",
    }


def _shown(name: str, rows: list[Row]) -> str:
    return f"{name}\n\n{markdown_table([[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)])}"
