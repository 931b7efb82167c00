"""Run updates of a recipe as `train` does, on a watch."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from flowgrpo.config.bill import changed, evaluating_anew
from flowgrpo.config.recipes import read_recipe
from flowgrpo.config.run import Config, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.policies._compiled import uncompiled
from flowgrpo.policies._dtypes import DTYPES, unit_roundoff
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.bench.phases import PHASES, Phases, Spent
from flowgrpo.training.bench.published import PublishedLoop, require_known
from flowgrpo.training.bench.real import pipeline_class, with_random_weights
from flowgrpo.training.bench.result import Bench, Side
from flowgrpo.training.credit.schemes import plain
from flowgrpo.training.rehearsal import DRAWN, DRAWN_ON_THE_WAY, LOTS
from flowgrpo.training.trainer import Trainer

WARM_UPS = 4
"""Updates before the first that counts, at most: as many as compile something, and one."""


def config_of(words: Sequence[str], overrides: Sequence[str]) -> Config:
    """As few prompts in an update as fill a batch of states, and one optimizer step, unless the overrides say otherwise.

    Words without a method get the plain one of the model.
    """
    words = list(words)
    recipe = words if "optimizer" in read_recipe(words).tree else [*words, plain(words)]
    config = load_config(recipe)
    prompts = max(1, config.rollout.micro_batch // config.rollout.group_size)
    return load_config(recipe, [f"rollout.prompts_per_update={prompts}", "optimizer.steps_per_update=1", *overrides])


def measure(config: Config, updates: int = 3, baseline: bool = False, random: bool = False) -> Bench:
    """`random`: a model of the real size whose weights are random, and no rewards but lots. Errors: UserError."""
    device = Processes.alone().device
    if baseline:
        require_known(config.policy, pipeline_class(config.policy, random))
    config = changed(config, ["evaluation=null", f"rewards={{{LOTS}: {{use: {DRAWN}}}}}"]) if random else drawing_lots(config)
    prompts, scorer = load_prompts(config.rollout.prompts), Scorer(config.rewards)
    scorer.require(config.policy.makes, f"policy '{config.policy.type}' makes")
    scorer.check(prompts, config.rollout.prompts)
    made = partial(with_random_weights, config, device, prompts) if random else lambda: config
    own = Timed(config, made().policy.build(device, config.seed), prompts, scorer)
    other = Timed(evaluating_anew(config), published(made(), device), prompts, scorer) if baseline else None
    sides = [side for side in (own, other) if side]
    for side in sides:
        side.warm_up()
    for _ in range(updates):
        for side in sides:
            side.update()
    return Bench(
        config,
        torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        config.rollout.samples_per_update,
        updates,
        own.side(),
        idle=own.idle_share() if device.type == "cuda" else None,
        operations=own.operations(),
        most=most_operations(device, own.policy.unit_roundoff),
        trained_share=own.trained_share,
        baseline=other.side() if other else None,
        apart=apart(other.latents, own.latents) if other else None,
    )


def drawing_lots(config: Config) -> Config:
    """With one more reward, which tells all samples apart: of equal ones nothing is trained, and an update costs nothing.
    The gradient of rewards trains whatever they are."""
    if config.objective.surrogate.needs_gradient:
        return config
    on_latents = bool(config.shape().scored) or not Scorer(config.rewards).looks
    return changed(config, [f"rewards.{LOTS}.use={DRAWN_ON_THE_WAY if on_latents else DRAWN}"])


def published(config: Config, device: torch.device) -> PublishedLoop:
    assert isinstance(config.policy, DiffusersConfig), "another was refused"
    return PublishedLoop(config.policy, device, config.seed)


class Timed:
    """A trainer whose updates are timed; `latents` are the first that it rolls out."""

    def __init__(self, config: Config, policy: Policy, prompts: list[Prompt], scorer: Scorer) -> None:
        self.policy = policy
        self.trainer = Trainer(config, policy, prompts, scorer, Processes.alone())
        self.phases = Phases(policy.device)
        self.trainer.clock = lambda: self.phases
        self.spent: list[dict[str, Spent]] = []
        self.compiling, self.first_log_ratio, self.trained_share = 0.0, 0.0, 1.0
        self.latents: Tensor | None = None
        policy.start = self._timed("encode", policy.start)  # type: ignore[method-assign]
        policy.decode = self._timed("decode", policy.decode)  # type: ignore[method-assign]

    def _timed(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phases(phase):
                return work(*args, **kwargs)

        return timed

    def warm_up(self) -> None:
        """Until an update compiles nothing; the first evaluates more than the others, for the on-policy check."""
        for _ in range(WARM_UPS):
            metrics, blocks, _ = self.trainer.update()
            if self.latents is None and blocks[0].rollout.transitions:
                self.latents = blocks[0].rollout.transitions[-1].next_states
                self.first_log_ratio = metrics["ratio/first_log_abs_max"]
            self.compiling += metrics.get("compiling", 0.0)
            if "compiling" not in metrics:
                return

    def update(self, counter: FlopCounterMode | None = None) -> dict[str, Spent]:
        self.phases = Phases(self.policy.device, counter)
        metrics, _, _ = self.trainer.update()
        self.trained_share = metrics["advantage/trained_share"]
        if not self.trained_share:
            raise UserError("an update of this recipe trained nothing, so there is nothing to time; take larger groups")
        self.spent.append(self.phases.spent)
        return self.phases.spent

    def side(self) -> Side:
        """The median of the updates so far."""

        def median(phase: str, name: str) -> float:
            return statistics.median(getattr(spent[phase], name) for spent in self.spent)

        spent = {phase: Spent(median(phase, "wall"), median(phase, "cpu"), 0, int(median(phase, "peak"))) for phase in PHASES}
        return Side(spent, self.compiling, self.first_log_ratio)

    def operations(self) -> dict[str, int]:
        """Of one more update, by phase, uncompiled: what a compiler fuses can't be counted."""
        with uncompiled(), FlopCounterMode(display=False) as counter:
            spent = self.update(counter)
        return {phase: one.operations for phase, one in spent.items()}

    def idle_share(self) -> float:
        """Of one more update: the share of its usual time in which no kernel runs."""
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            self.update()
        busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
        return max(0.0, 1.0 - busy / statistics.median(sum(one.wall for one in spent.values()) for spent in self.spent))


def apart(latents: Tensor | None, others: Tensor | None) -> float:
    """The largest difference, over the root mean square."""
    assert latents is not None and others is not None, "both have rolled out"
    return float((latents - others).abs().max() / others.square().mean().sqrt())


def most_operations(device: torch.device, roundoff: float) -> float:
    """Operations a second of the best of some large products of matrices, in the dtype that has this rounding."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = next(dtype for dtype in DTYPES.values() if unit_roundoff(dtype) == roundoff)
    a = torch.randn(size, size, device=device).to(dtype)
    seconds = []
    for _ in range(6):
        phases = Phases(device)
        with phases("rollout"):
            a @ a
        seconds.append(phases.spent["rollout"].wall)
    return 2.0 * size**3 / min(seconds[1:])
