"""Which schemes are measured: recipes on one model, or a standard set that is built on its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from flowgrpo.config.bill import evaluating_anew
from flowgrpo.config.recipes import METHODS, fitting, name_of, read_recipe, words_of
from flowgrpo.config.run import Config, load_config
from flowgrpo.config.tree import merge
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked
from flowgrpo.objective.selection.turning_point import TurningPoint

PLAIN = ("flow_grpo", "trajectory")
"""Every step random and trained, the final reward for all of them; the first that fits a model is what its standard set is built
on."""


@dataclass(frozen=True)
class Scheme:
    """A config with the name that it has in the tables."""

    name: str
    config: Config


@dataclass(frozen=True)
class LeftOut:
    """A scheme that is not measured, and why."""

    name: str
    reason: str


def named(model: str, methods: Sequence[str], overrides: Sequence[str]) -> list[Scheme]:
    """`MODEL METHOD` of each method, a name or a file, as `flowgrpo train` reads it. Errors: UserError for one that is none."""
    return [_loaded(name_of(method), [*words_of(model), *words_of(method)], overrides) for method in methods]


def base(model: str, overrides: Sequence[str]) -> Scheme:
    """What a standard set is built on: a whole recipe itself, or the plain method of a model. Errors: UserError."""
    words = words_of(model)
    if "optimizer" in read_recipe(words).tree:
        return _loaded(name_of(model), words, overrides)
    method = plain(words)
    return _loaded(method, [*words, method], overrides)


def _loaded(name: str, words: Sequence[str], overrides: Sequence[str]) -> Scheme:
    """Weights stay as they are, and gradients are made group by group: a graph that all groups share is of no use."""
    return Scheme(name, evaluating_anew(load_config([*words], overrides)))


def plain(words: list[str]) -> str:
    """The plain method of a model."""
    return next((name for name in PLAIN if len(words) == 1 and name in fitting(words[0], METHODS)), PLAIN[0])


def standard(first: Scheme, best_baseline: float | None) -> tuple[list[Scheme], list[LeftOut]]:
    """The standard set, and what of it does not fit. `best_baseline` is the b* of credit `gain`, where it is known.

    The first is `terminal`, every step random with the final reward for all, unless the recipe itself is something else.
    """
    tree = first.config.model_dump(mode="json")
    schemes, left = [first], []
    for name, changes in _variants(first.config, best_baseline):
        try:
            scheme = Scheme(name, checked(Config, _changed(tree, changes), name))
        except UserError as error:
            left.append(LeftOut(name, str(error).removeprefix(f"{name}: ")))
            continue
        same = next((other.name for other in schemes if other.config == scheme.config), None)
        if same:
            left.append(LeftOut(name, f"the same as {same} here"))
        else:
            schemes.append(scheme)
    size = first.config.rollout.group_size
    factor = f"every advantage is {size / (size - 1):.3g} times that against the group's mean, and AdamW does not see a factor"
    return schemes, [*left, LeftOut("leave-one-out", factor)]


Changes = Mapping[str, Any]


def _changed(tree: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """A plan or a credit rule is replaced as a whole, all else key by key."""
    plan, rest = changes.get("plan"), {key: value for key, value in changes.items() if key not in ("plan", "credit")}
    changed = merge(tree, rest)
    changed["calibration"] = None
    changed["credit"] = changes.get("credit", "terminal")
    changed["rollout"] = {**changed["rollout"], "plan": plan}
    return changed


def _variants(config: Config, best_baseline: float | None) -> Iterator[tuple[str, Changes]]:
    """Names, and what each changes. Where nothing is drawn for the start, as with masks, no member has one of its own."""
    plan, size = config.rollout.plan, config.rollout.group_size
    last = config.policy.steps - (not plan.kernel.ends_stochastic)
    own = config.policy.kernels.noise_scale
    kernel = {"kernel": plan.kernel.model_dump(mode="json")}
    chains = {**kernel, "shared_start": not own}
    steps = {"type": "all", **chains}
    fork = {"advantage": {"mean": "root_step", "std": "root_step"}}
    by_step = {"advantage": {"mean": "group_step", "std": "group_step"}}
    centred = {"advantage": {"mean": "none", "std": "group"}}
    exact = {**steps, "completion": {"steps": None}}
    yield "terminal", {"plan": steps}
    if own:
        yield "noise of cps", {"plan": {**steps, "kernel": "cps"}}
    window = range(ceil(last / 2))
    yield f"window, steps 0 to {window[-1]}" if len(window) > 1 else "window", {"plan": _fixed(chains, window)}
    for step in range(last):
        yield f"step {step}", {"plan": _fixed(chains, [step])}
        if own:
            yield f"step {step}, shared start", {"plan": _fixed({**kernel, "shared_start": True}, [step])}
    yield "a random step", {"plan": {"type": "random", "size": 1, "per": "prompt", **chains}}
    yield "gain, b = 1", {"plan": exact, "credit": "gain", **by_step}
    if best_baseline is not None:
        baseline = round(best_baseline, 2)
        yield f"gain, b* = {baseline:g}", {"plan": exact, "credit": {"type": "gain", "baseline": baseline}, **by_step}
    yield "gain, fitted", {"plan": exact, "credit": {"type": "gain", "baseline": "fitted"}, **centred}
    yield "blend", {"plan": exact, "credit": "blend", **centred}
    for count in (1, 2):
        completed = {"plan": {**steps, "completion": {"steps": count}}, "credit": {"type": "value", "absolute": 0.0}}
        yield f"value, {count} step{'s' * (count > 1)}", {**completed, **by_step}
    yield "turning point", {"plan": exact, "credit": "turning_point", **by_step}
    chosen = [*config.selection, TurningPoint()]
    yield "turning points alone", {"plan": exact, "credit": "gain", "selection": chosen, **by_step}
    teeth = next((count for count in (6, 4, 3, 2) if size % count == 0), size)
    yield "comb", {"plan": {"type": "comb", "teeth": teeth, **kernel}, **fork}
    each = {"advantage": {"mean": "root_step", "std": "global"}, "objective": {"weight": "one", "reduce": "step"}}
    yield "comb, adaptive", {"plan": {"type": "comb", "teeth": teeth, "allocate": "adaptive", **kernel}, **each}
    yield "comb, step 0", {"plan": {"type": "comb", "teeth": teeth, "at": [0], **kernel}, **fork}
    forks = [step for step in range(min(last, 2)) if size % 2 ** (step + 1) == 0]
    yield "branch", {"plan": {"type": "branch", "forks": forks, **kernel}, **by_step}


def _fixed(chains: Changes, steps: Sequence[int]) -> dict[str, Any]:
    return {"type": "fixed", "steps": list(steps), **chains}


def require_comparable(schemes: Sequence[Scheme]) -> None:
    """Errors: UserError where two schemes have one name, or are no answers to one question: other prompts or rewards."""
    first = schemes[0]
    for i, scheme in enumerate(schemes):
        if any(scheme.name == other.name for other in schemes[:i]):
            raise UserError(f"'{scheme.name}' is named twice; give each scheme once, or rename one of the files")
        if scheme.config.rollout.prompts != first.config.rollout.prompts:
            raise UserError(f"{scheme.name} has other rollout.prompts than {first.name}; give both the same to compare them")
        if scheme.config.rewards != first.config.rewards:
            raise UserError(f"{scheme.name} has other rewards than {first.name}, so it has another aim; give both the same")
