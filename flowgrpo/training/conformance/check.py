"""Check a pipeline: a policy over it against its own untouched call, with two samples at once.

B = 2 samples, S steps. A check is `exact` (equal bit for bit), a largest relative difference, or what went wrong.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from math import inf
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import torch_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler
from flowgrpo.policies.diffusers._schedule import with_one_step_scheduler
from flowgrpo.policies.diffusers._tap import StepCall, Stop, own_randomness
from flowgrpo.sampling.kernels.ddim import Ddim
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.conformance.table import COLUMNS
from flowgrpo.training.rollout import rollout

CLOSE = 1e-4
"""A relative difference up to this is rounding."""
SAMPLES = 2
START = [("start", i) for i in range(SAMPLES)]
"""Keys of the initial noise."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Verdict:
    """What the checks of a pipeline found; `error` is why they could not be made. `recorded`: yes, or why its steps go through
    the pipeline's own code each time."""

    name: str
    kind: str
    pipeline: str
    scheduler: str
    checks: dict[str, str] = field(default_factory=dict)
    error: str = ""
    recorded: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and all(_good(self.checks.get(name, "")) for name in COLUMNS)

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def _good(difference: str) -> bool:
    return difference == "yes" or _size(difference) <= CLOSE


def check(name: str, kind: str, config: DiffusersConfig, prompt: Prompt) -> Verdict:
    """All checks of the pipeline that `config` names. Whatever it raises is a finding; UserError where it can't be loaded."""
    try:
        plain = Plain(config, prompt)
        pipeline, scheduler = type(plain.sampler.pipe).__name__, type(plain.sampler.pipe.scheduler).__name__
    except UserError:
        raise
    except Exception as error:
        return Verdict(name, kind, "", "", error=_sentence(error))
    try:
        policy = config.build(DEVICE, seed=0)
        plain.record(policy)
    except Exception as error:
        return Verdict(name, kind, pipeline, scheduler, error=_sentence(error))
    checks = {
        "start": lambda: _start(policy, plain),
        "predict": lambda: _predict(policy, plain),
        "finish": lambda: _finish(policy, plain),
        "ratio": lambda: _ratio(policy, prompt),
        "gradient": lambda: _gradient(policy, prompt),
        "lora": lambda: _lora(policy, config, prompt),
    }
    found = {key: _found(make) for key, make in checks.items()}
    return Verdict(name, kind, pipeline, scheduler, found, recorded=_recorded(policy, prompt))


def _recorded(policy: DiffusersPolicy, prompt: Prompt) -> str:
    reasons = policy.loop([prompt]).recordings.reasons.values()
    return next(filter(None, reasons), "yes") if reasons else "no step was taken twice"


def _found(make: Callable[[], str]) -> str:
    try:
        return make()
    except Exception as error:
        return _sentence(error)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class Plain:
    """The untouched call, and what its scheduler was given and gave, step by step."""

    def __init__(self, config: DiffusersConfig, prompt: Prompt) -> None:
        self.sampler = PipelineSampler(config, DEVICE)
        self.prompts = [prompt] * SAMPLES
        with_one_step_scheduler(self.sampler.pipe)

    @torch.no_grad()
    def record(self, policy: DiffusersPolicy) -> None:
        """One call a slice of rows, as the policy makes them; `starts` are cut after the first iteration."""
        policy.start(self.prompts, START)
        self.slices = policy.rows.calls(self.prompts)
        self.runs = [self._run(rows, torch.Generator()) for rows in self.slices]
        generators = [torch_generator(key) for key in START]
        self.starts = [self._run(rows, generators[rows], policy.loop(self.prompts).known.calls)[0] for rows in self.slices]

    def _run(self, rows: slice, generator: Any, most: int | None = None) -> tuple[list[StepCall], list[Tensor], Any]:
        calls: list[StepCall] = []
        latents: list[Tensor] = []

        def see(call: StepCall) -> None:
            calls.append(StepCall(call.model_output.clone(), call.sample.clone()))
            if len(calls) == most:
                raise Stop

        arguments = {**self.sampler._arguments(self.prompts[rows], generator), "output_type": "pt"}
        with own_randomness(), _watched(self.sampler.pipe.scheduler, see, latents):
            try:
                output = self.sampler.pipe(**arguments)[0]
            except Stop:
                output = None
        return calls, latents, output


@contextmanager
def _watched(scheduler: Any, see: Callable[[StepCall], None], latents: list[Tensor]) -> Iterator[None]:
    signature = inspect.signature(scheduler.step)

    @wraps(type(scheduler).step)
    def step(stepped: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        see(StepCall(given["model_output"], given["sample"]))
        output = type(stepped).step(stepped, *args, **kwargs)
        latents.append(output[0].clone())
        return output

    vars(scheduler)["step"] = MethodType(step, scheduler)
    try:
        yield
    finally:
        del vars(scheduler)["step"]


def _start(policy: DiffusersPolicy, plain: Plain) -> str:
    states = [_state(policy, plain, calls, rows) for calls, rows in zip(plain.starts, plain.slices, strict=True)]
    return _difference(policy.start(plain.prompts, START), torch.cat(states))


def _state(policy: DiffusersPolicy, plain: Plain, calls: list[StepCall], rows: slice) -> Tensor:
    """What the calls of an iteration step."""
    return policy.loop(plain.prompts).known.sample(calls, len(range(SAMPLES)[rows])).float()


def _steps(policy: DiffusersPolicy, plain: Plain) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, states, predictions) of the untouched call."""
    known = policy.loop(plain.prompts).known
    for step in range(policy.config.steps):
        states, outputs = [], []
        for (calls, _, _), rows in zip(plain.runs, plain.slices, strict=True):
            mine = calls[step * known.calls : (step + 1) * known.calls]
            states.append(_state(policy, plain, mine, rows))
            outputs.append(known.prediction(mine, len(range(SAMPLES)[rows])))
        yield step, torch.cat(states), torch.cat(outputs)


@torch.no_grad()
def _predict(policy: DiffusersPolicy, plain: Plain) -> str:
    """The worst of all steps."""
    differences = [_difference(policy.predict(x, plain.prompts, step), v) for step, x, v in _steps(policy, plain)]
    return max(differences, key=_size)


def _size(difference: str) -> float:
    """Of a difference; what is none is worst."""
    if difference == "exact":
        return 0.0
    try:
        return float(difference)
    except ValueError:
        return inf


def _finish(policy: DiffusersPolicy, plain: Plain) -> str:
    known = policy.loop(plain.prompts).known
    states, outputs = [], []
    for (_, latents, output), rows in zip(plain.runs, plain.slices, strict=True):
        last = [StepCall(m, m) for m in latents[-known.calls :]]
        states.append(_state(policy, plain, last, rows))
        outputs.append(plain.sampler._pixels(output))
    return _difference(policy.decode(torch.cat(states), plain.prompts).outputs, torch.cat(outputs))


def _ratio(policy: DiffusersPolicy, prompt: Prompt) -> str:
    """The largest |log-ratio| when a rollout is replayed; moved weights must show, else nothing was compared."""
    largest, moved = 0.0, 0.0
    for t in _rollout(policy, prompt):
        with torch.no_grad():
            v = policy.predict(t.states, t.prompts, t.step)
            largest = max(largest, _log_ratio(t, v))
            moved = max(moved, _log_ratio(t, v * 1.01))
    if not moved > 0.0:
        return "a moved prediction has the same log-prob"
    return "exact" if largest == 0.0 else f"{largest:.1e}"


def _log_ratio(t: Any, v: Tensor) -> float:
    return float((t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states) - t.log_prob).abs().max())


def _rollout(policy: DiffusersPolicy, prompt: Prompt) -> Any:
    shape = AllSteps(kernel=Ddim(eta=1.0)).shape(Draw(policy.config.steps, SAMPLES))
    return rollout(policy, [prompt], [shape], (0, 0), SAMPLES, keep_predictions=False).transitions


def _gradient(policy: DiffusersPolicy, prompt: Prompt) -> str:
    """Whether each denoiser gets a gradient, summed over the steps."""
    _nudge(policy)
    for t in _rollout(policy, prompt):
        v = policy.predict(t.states, t.prompts, t.step)
        t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states).mean().backward()
    parameters = policy.trainable().items()
    for name in policy.modules:
        norms = [float(p.grad.norm()) for key, p in parameters if key.startswith(f"{name}.") and p.grad is not None]
        if not sum(norms) > 0.0:
            return f"no gradient reaches {name}"
    return (
        "yes" if all(torch.isfinite(p.grad).all() for _, p in parameters if p.grad is not None) else "the gradient is not finite"
    )


@torch.no_grad()
def _nudge(policy: DiffusersPolicy) -> None:
    """Adapters begin as zero; a moved one shows what does not arrive."""
    for i, parameter in enumerate(policy.trainable().values()):
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch_generator(("nudge", i))).to(parameter.device))


def _lora(policy: DiffusersPolicy, config: DiffusersConfig, prompt: Prompt) -> str:
    """What was exported, in a fresh pipeline, generates what the policy does."""
    prompts, seeds = [prompt] * SAMPLES, list(range(SAMPLES))
    with tempfile.TemporaryDirectory() as folder:
        policy.export()(Path(folder))
        trained = config.build_sampler(DEVICE, Path(folder))
    with_one_step_scheduler(trained.pipe)
    loaded, expected = (s.generate(prompts, seeds, config.steps).outputs for s in (trained, policy))
    before = PipelineSampler(config, DEVICE)
    with_one_step_scheduler(before.pipe)
    if _difference(before.generate(prompts, seeds, config.steps).outputs, expected) == "exact":
        return "the adapter changes nothing"
    return _difference(loaded, expected)


def _difference(actual: Any, expected: Any) -> str:
    actual, expected = actual.float(), expected.float()
    if actual.shape != expected.shape:
        return f"shape {list(actual.shape)} where the pipeline has {list(expected.shape)}"
    if torch.equal(actual, expected):
        return "exact"
    return f"{float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)):.1e}"
