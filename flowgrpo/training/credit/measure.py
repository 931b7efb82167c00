"""How much of an update's gradient points the right way, for each scheme and for what it costs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import percentiles
from flowgrpo.core.plugins import nearest
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.core.signals import Signals
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.exam import Exam
from flowgrpo.policies.prompt_check import check_files, tell
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.scorer import Scorer, probe
from flowgrpo.training.calibration import calibrate, with_levels
from flowgrpo.training.credit.diagnostics import Diagnostics, Quality, StepWorth
from flowgrpo.training.credit.estimate import (
    FLOOR,
    Resampled,
    moments,
    needed,
    percentiles_of,
    products_of,
    reliability,
    resampled,
)
from flowgrpo.training.credit.gradients import Gradients, Measurer, batches_of
from flowgrpo.training.credit.point import policies_at
from flowgrpo.training.credit.result import Credit, Estimate, Row, rank_correlation
from flowgrpo.training.credit.schemes import PLAIN, LeftOut, Scheme, require_comparable, standard
from flowgrpo.training.credit.sketch import Sketch
from flowgrpo.training.credit.slope import Check, Pull, Slope, comparing, factor, scaled

MILLION = 1e6
UPDATES, UPDATES_OF_MANY = 32, 16
CHECKED, MOST_CHECKED = 0.25, 132
"""Of the prompts, for the check of slopes: no gradient sees them."""
DIAGNOSED, PROBED = 48, 32
STEPS = 5.0
"""The check moves the weights at most as far as so many optimizer steps at the recipe's learning rate."""


@dataclass(frozen=True)
class Question:
    """What is asked of a model. With `standard` the schemes are a set that is built on the one that is there.

    `updates` None: as many as take minutes on a miniature. `prompts`: at most so many, spread over all. `reference`: the scheme
    whose mean gradient is the right way, of `reference_updates` where these are more; None: the mean of all.
    """

    model: str
    schemes: list[Scheme]
    standard: bool = False
    updates: int | None = None
    prompts: int | None = None
    checkpoint: Path | None = None
    reference: str | None = None
    completions: bool = False
    reference_updates: int | None = None


def measure(question: Question, policy: Policy | None = None) -> Credit:
    """`policy` is the first scheme's where it is given. Errors: UserError."""
    return Measurement(question, policy)()


class Measurement:
    """Everything that can be wrong is found out first, then come the gradients, then what they say."""

    def __init__(self, question: Question, policy: Policy | None) -> None:
        self.question, self.schemes = question, question.schemes
        self.updates = question.updates or (UPDATES_OF_MANY if question.standard else UPDATES)
        self.left: list[LeftOut] = []
        self.notes: list[str] = []
        require_comparable(self.schemes)
        self._require_reference()
        if self.updates < 2:
            raise UserError("one update says nothing about its own noise; give --updates 2 or more")
        self.reference_updates = self._reference_updates()
        config = self.config
        rows, self.scorer = load_prompts(config.rollout.prompts), Scorer(config.rewards)
        self.scorer.check(rows, config.rollout.prompts)
        self.all_rows, self.rows = rows, spread(rows, question.prompts)
        most = max(scheme.config.rollout.prompts_per_update for scheme in self.schemes)
        self.aside, self.kept = set_aside(self.rows, 2 * most)
        self.batches = batches_of(self.kept, self.reference_updates, most, (config.seed, "credit", "prompts"))
        tell(check_files(config.policy, {config.rollout.prompts: rows}) or [])
        self.policies, self.point = policies_at(self.schemes, question.checkpoint, Processes.alone().device, policy)

    @property
    def config(self) -> Config:
        return self.schemes[0].config

    @property
    def baseline(self) -> int:
        """The plain scheme, or the first."""
        names = [scheme.name for scheme in self.schemes]
        return next((names.index(name) for name in PLAIN if name in names), 0)

    def __call__(self) -> Credit:
        begin = time.perf_counter()
        self._probe()
        config, policy = self.schemes[self.baseline].config, self.policies[self.baseline]
        diagnostics = Diagnostics(config, policy, spread(self.rows, DIAGNOSED), self.scorer)
        complaint = diagnostics.complaint()
        if complaint:
            self.notes.append(f"No diagnostics by step: {complaint}.")
        steps = [] if complaint else diagnostics.steps()
        completions = diagnostics.completions() if self.question.completions and not complaint else []
        if self.question.standard:
            self.schemes, self.left = standard(self.schemes[0], best_baseline(steps))
            self.policies = self.policies * len(self.schemes)
            self._require_reference()
        found = self._gradients()
        credit = self._figures(found, steps, completions)
        return replace(self._checked(credit, found), seconds=round(time.perf_counter() - begin, 1))

    def _probe(self) -> None:
        """Errors: UserError for a reward that is the same whatever is shown."""
        policy = self.config.policy
        exam = Exam(spread(self.all_rows, PROBED), policy.steps, self.config.seed, PROBED, policy.batch_key)
        probe(self.scorer, exam.samples(exam.batches[0], self.policies[0], self.scorer.reads_latents))

    def _require_reference(self) -> None:
        names, wanted = [scheme.name for scheme in self.schemes], self.question.reference
        if wanted is not None and wanted not in names and not (self.question.standard and len(names) == 1):
            raise UserError(f"the reference '{wanted}' is not one of the schemes ({nearest(wanted, names)})")

    def _reference_updates(self) -> int:
        """How many of the reference's updates there are, where it is one scheme."""
        wanted, updates = self.question.reference_updates, self.updates
        if wanted is None:
            return updates
        if self.question.reference is None:
            raise UserError("only the updates of one scheme can be more; give --reference SCHEME with --reference-updates")
        if wanted < updates:
            raise UserError(f"a reference of {wanted} updates is less than the {updates} of a scheme; give it more, or none")
        return wanted

    def _gradients(self) -> list[Gradients]:
        """The schemes take turns. A signal ends the measurement with the updates that are done, if these are enough."""
        sketch = Sketch(sum(p.numel() for p in self.policies[0].trainable().values()), self.policies[0].device)
        configs = [self._calibrated(i) for i in range(len(self.schemes))]
        measurers = [
            Measurer(config, policy, self.scorer, sketch, self.point)
            for config, policy in zip(configs, self.policies, strict=True)
        ]
        rounds = [(number, measurer) for number in range(self.updates) for measurer in measurers]
        alone = [
            measurer for scheme, measurer in zip(self.schemes, measurers, strict=True) if scheme.name == self.question.reference
        ]
        rounds += [(number, measurer) for number in range(self.updates, self.reference_updates) for measurer in alone]
        with Signals() as signals:
            signals.busy = lambda: True
            for number, measurer in bar(rounds, "updates"):
                measurer(self.batches[number], number)
                if signals.asked:
                    break
        self.done = min(measurer.updates for measurer in measurers)
        if signals.asked and self.done < 2:
            raise KeyboardInterrupt(f"{signals.asked} ended it before every scheme had two updates; nothing is known yet")
        if self.done < self.updates:
            self.notes.append(f"Ended by {signals.asked} after {self.done} of {self.updates} updates; the check is left out.")
        elif (more := max(measurer.updates for measurer in measurers)) < self.reference_updates:
            self.notes.append(f"Ended by {signals.asked} after {more} of {self.reference_updates} updates of the reference.")
        return [measurer.found for measurer in measurers]

    def _calibrated(self, i: int) -> Config:
        """With the noise levels that a run would begin with, at these weights."""
        config = self.schemes[i].config
        if config.calibration is None:
            return config
        calibration = calibrate(config, self.policies[i], self.kept, self.scorer, Processes.alone())
        self.notes.append(
            f"{self.schemes[i].name}: noise levels {calibration.levels} were found first, in {calibration.network_evaluations:,} "
            "network evaluations that no cost here counts."
        )
        return with_levels(config, calibration.levels)

    def _figures(self, found: list[Gradients], steps: list[StepWorth], completions: list[Quality]) -> Credit:
        products = products_of(found)
        now = moments(products, np.ones(len(products.scheme)))
        names = [scheme.name for scheme in self.schemes]
        named = self.question.reference
        weights = reliability(products, now) if named is None else np.eye(len(names))[names.index(named)]
        equal = float(products.cost[self.baseline])
        result = resampled(products, weights, equal, self.config.seed)
        lengths = weights * np.sqrt(np.maximum(np.diag(now.means), FLOOR))
        shares = lengths / lengths.sum()
        pace = found[self.baseline].evaluations / found[self.baseline].seconds
        rows = [_row(names[i], one, result, i, self.baseline, equal, pace, float(shares[i])) for i, one in enumerate(found)]
        evaluation = self.config.evaluation
        return Credit(
            model=self.question.model,
            point=self.point.name,
            rows=rows,
            left_out=self.left,
            steps=steps,
            completions=completions,
            notes=self.notes,
            baseline=names[self.baseline],
            reference=self._right_way(found),
            updates=self.done,
            prompts=len({*products.prompt.tolist()}),
            check_prompts=len(self.aside),
            evaluations=equal,
            sampler=f"the model's own sampler in {evaluation.steps if evaluation else self.config.policy.steps} steps",
            length=0.0,
            scaled_length=0.0,
            sketch_error=found[0].sketch_error,
            ranks=None,
            ranks_scaled=None,
            seconds=0.0,
        )

    def _right_way(self, found: Sequence[Gradients]) -> str:
        if self.question.reference is None:
            return "the mean gradient of all schemes, weighted by reliability"
        most = max(len(one.rewards) for one in found)
        return f"the mean gradient of {self.question.reference}" + (f", of {most} updates" if most > self.done else "")

    def _checked(self, credit: Credit, found: list[Gradients]) -> Credit:
        """With the slopes of the mean reward along the mean gradients."""
        if self.done < self.updates or not self.aside:
            return credit
        if labels := comparing(self.scorer):
            return replace(credit, notes=[*credit.notes, f"No check of slopes: reward '{labels[0]}' compares samples."])
        check = Check(self.config, self.policies[0], self.scorer, self.aside)
        moved = max(int((one.square > 0).sum()) for one in found)
        longest = STEPS * self.config.optimizer.lr * moved**0.5
        first = next(one for one in (found[self.baseline], *found) if one.directions())
        length = check.length(first.directions()[0], longest)
        scaled_length = check.length(scaled(first.directions()[0], first.square), longest)
        pairs = [(row, one) for row, one in zip(credit.rows, found, strict=True) if one.directions()]
        done: list[tuple[Row, Pull, Pull]] = []
        with Signals() as signals:
            signals.busy = lambda: True
            for row, one in bar(pairs, "check"):
                directions = one.directions()
                along, along_scaled = check(directions, length), check([scaled(d, one.square) for d in directions], scaled_length)
                checked = replace(row, along=along, along_scaled=along_scaled)
                present = float((one.square > 0).sum())
                done.append((checked, pull(along, float(one.square.sum()), row), pull(along_scaled, present, row)))
                if signals.asked:
                    credit.notes.append(f"The check was ended by {signals.asked}.")
                    break
        pulls, scaled_pulls = ({row.name: pair[k] for row, *pair in done} for k in (0, 1))
        rows = {
            row.name: replace(
                row,
                found=_found(row.name, credit.baseline, pulls),
                found_scaled=_found(row.name, credit.baseline, scaled_pulls),
            )
            for row, _, _ in done
        }
        ranks, ranks_scaled = (_ranks(credit.rows, one) for one in (pulls, scaled_pulls))
        everyone = [rows.get(row.name, row) for row in credit.rows]
        return replace(credit, rows=everyone, length=length, scaled_length=scaled_length, ranks=ranks, ranks_scaled=ranks_scaled)


def pull(slope: Slope, square: float, row: Row) -> Pull:
    return Pull(np.array(slope.pulls), square, row.evaluations)


def _found(name: str, baseline: str, pulls: Mapping[str, Pull]) -> Estimate | None:
    if name == baseline:
        return Estimate(1.0, (1.0, 1.0))
    return Estimate(*factor(pulls[name], pulls[baseline])) if {name, baseline} <= pulls.keys() else None


def _ranks(rows: Sequence[Row], pulls: Mapping[str, Pull]) -> float | None:
    known = [row for row in rows if row.name in pulls]
    worths = [pulls[row.name].worth(np.ones(len(pulls[row.name].pulls))) for row in known]
    return rank_correlation([row.per_million.value for row in known], worths)


def set_aside(rows: Sequence[Prompt], least: int) -> tuple[list[Prompt], list[Prompt]]:
    """(for the check, for the gradients): a share spread over all, so far as `least` are left for the gradients."""
    aside = spread(rows, min(int(CHECKED * len(rows)), MOST_CHECKED, max(0, len(rows) - least)))
    chosen = {prompt.index for prompt in aside}
    return aside, [prompt for prompt in rows if prompt.index not in chosen]


def best_baseline(steps: Sequence[StepWorth]) -> float | None:
    """The mean over the steps, each as often as its part of what is decided."""
    known = [(step.baseline, step.deviation**2) for step in steps if step.deviation]
    return float(np.average([b for b, _ in known], weights=[share for _, share in known])) if known else None


def _row(
    name: str, one: Gradients, result: Resampled, i: int, baseline: int, equal: float, base_pace: float, share: float
) -> Row:
    figures, evaluations, seconds = result.figures, one.evaluations / one.steps, one.seconds / one.steps
    squared = Estimate(float(figures.squared[i]), percentiles(result.squared[:, i]))
    over = Estimate(*result.ratio(i, baseline))
    pace = evaluations / seconds
    agreement = float(figures.agreement[i])
    return Row(
        name=name,
        steps=one.steps,
        evaluations=evaluations,
        seconds=seconds,
        reward=float(np.mean(one.rewards)),
        per_million=squared.times(MILLION / equal),
        per_second=squared.times(pace / equal),
        cosine=Estimate(float(figures.cosine[i]), percentiles(result.cosine[:, i])),
        error=Estimate(float(figures.error[i]), percentiles_of(result.error[:, i])),
        factor=over,
        factor_per_second=over.times(pace / base_pace),
        agreement=agreement if np.isfinite(agreement) else None,
        share=share,
        silent=one.silent / len(one.vectors),
        needed=needed(result.squared[:, i] - result.squared[:, baseline] if i != baseline else result.squared[:, i]),
    )
