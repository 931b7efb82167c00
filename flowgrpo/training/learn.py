"""Scored transitions -> updated weights.

B states of one network evaluation, C trained transitions that leave them, D decisions of a transition. Suffixes say shapes:
`log_prob_CD` is [C, D], `tau_C1` is [C, 1].
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.sections import OptimizerConfig
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.objective import ObjectiveConfig
from flowgrpo.objective.batch import LossInputs, Noised
from flowgrpo.objective.loss import Terms, shares, step_weights, terms
from flowgrpo.policies.protocol import Choosing, Guided, Joining, Policy, trained_by
from flowgrpo.training.collect import Rollouts, UpdateBlock, kept
from flowgrpo.training.given import GivenAnswers
from flowgrpo.training.gradient import RewardGradient
from flowgrpo.training.host import ahead, on_host
from flowgrpo.training.on_policy import OnPolicyCheck
from flowgrpo.training.rollout import Transitions
from flowgrpo.training.scored import Scored
from flowgrpo.training.teacher import Teacher
from flowgrpo.training.weighing import weigh
from flowgrpo.training.weights import TrainedWeights


@dataclass(frozen=True)
class TrainedBlock:
    """The batches of a block that hold something to train."""

    slots: list[int]
    batches: list[Transitions]

    def by_group(self) -> Iterator[tuple[int, "TrainedBlock"]]:
        """(slot, what this group alone trains), for each group of the block."""
        for group, slot in enumerate(self.slots):
            rows = [[i for i, (g, _) in enumerate(t.places) if g == group] for t in self.batches]
            taken = [t.take(chosen) for t, chosen in zip(self.batches, rows, strict=True) if chosen]
            yield slot, TrainedBlock(self.slots, taken)


class Learner:
    """Takes the optimizer steps of an update. `begun`: something was learned of an update that has not ended; `moved`: its
    rollouts had other weights; `unit` is that of the policy's log-ratios."""

    def __init__(
        self,
        policy: Policy,
        weights: TrainedWeights,
        rollouts: Rollouts,
        objective: ObjectiveConfig,
        unit: float,
        optimizer: OptimizerConfig,
        processes: Processes,
        teacher: Teacher | None = None,
        given: GivenAnswers | None = None,
        gradient: RewardGradient | None = None,
    ) -> None:
        self.teacher, self.given, self.gradient = teacher, given, gradient
        self.policy, self.weights, self.rollouts, self.processes = policy, weights, rollouts, processes
        self.objective, self.unit, self.epochs, self.joins = objective, unit, optimizer.epochs, optimizer.join_steps
        self.on_host = rollouts.config.keep == "host"
        self.check: OnPolicyCheck | None = OnPolicyCheck(policy)
        self.begun = self.moved = False

    def __call__(
        self,
        blocks: Sequence[UpdateBlock],
        scored: Scored,
        minibatches: Sequence[Sequence[int]],
        update: int,
        thinned: bool,
    ) -> dict[str, float]:
        """All epochs of an update; its metrics. `thinned`: a selection has dropped transitions."""
        totals = Totals()
        self.moved = False
        trained, mean_weight = self.prepared(blocks, scored, thinned)
        steps = [slots for _ in range(self.epochs) for slots in minibatches]
        for slots in bar(steps, "optimise", self.processes.is_main):
            votes, count = scored.votes(slots, self.objective.reduce)
            if votes.any():
                totals.begin()
                for block, chosen in zip(blocks, trained, strict=True):
                    if block.slots[0] in slots:
                        self.accumulate(chosen, scored.advantage, votes, count, mean_weight, totals)
                        if self.given:
                            self.given.add(self.weights, block, scored, update, len(slots))
                        self.weights.end_block()
                self._step(totals, update)
        given = self.given.metrics(self.processes) if self.given else {}
        return totals.metrics(self.processes, bool(self.objective.of_samples)) | given

    def prepared(self, blocks: Sequence[UpdateBlock], scored: Scored, thinned: bool) -> tuple[list[TrainedBlock], float]:
        """What an update trains, and the mean weight of its transitions."""
        trained = [self._trained(block, scored, thinned) for block in blocks]
        return trained, self._mean_weight(trained)

    def _trained(self, block: UpdateBlock, scored: Scored, thinned: bool) -> TrainedBlock:
        """The batches are the rollout's own, unless a selection thins them out."""
        rows = [
            [i for i, (g, node) in enumerate(t.places) if scored.in_loss[block.slots[g], node]] for t in block.rollout.transitions
        ]
        pairs = [(t, chosen) for t, chosen in zip(block.rollout.transitions, rows, strict=True) if chosen]
        batches = [kept(t.take(chosen), self.rollouts.config.keep) if thinned else t for t, chosen in pairs]
        if batches and (rules := self.objective.decision_weights):
            weigh(batches, block.rollout.shapes, [scored.advantage[slot] for slot in block.slots], rules)
        return TrainedBlock(block.slots, batches)

    def _mean_weight(self, trained: Sequence[TrainedBlock]) -> float:
        """Over the transitions of all processes."""
        weights = [step_weights(t.law.tau, t.law.g, self.objective) for block in trained for t in block.batches]
        sums = self.processes.gather([(float(row.sum()), len(row)) for row in weights])
        return fsum(weight for weight, _ in sums) / max(1, sum(count for _, count in sums))

    def accumulate(
        self,
        trained: TrainedBlock,
        advantage: np.ndarray,
        votes: np.ndarray,
        count: float,
        mean_weight: float,
        totals: "Totals",
    ) -> None:
        """Add the gradient of this block's part of the loss, the mean by `votes` [P, N] and their `count`."""
        for pairs in self._together(trained.batches):
            asked = [t for _, t in pairs]
            references = self._references(asked) if self.objective.needs_reference else [None] * len(asked)
            predictions = [None] * len(asked) if self.gradient else self._replayed(asked)
            losses = []
            for (waiting, t), prediction, reference in zip(pairs, predictions, references, strict=True):
                at = [(trained.slots[g], node) for g, node in t.places]
                votes_C, advantage_C = (
                    torch.tensor([table[p] for p in at], device=self.policy.device).float() for table in (votes, advantage)
                )
                terms_CD = self._terms(t, prediction, reference, advantage_C[:, None], mean_weight)
                t.reference = reference if self.epochs > 1 else None
                if self.on_host and t.reference is not None:
                    waiting.reference = on_host(t.reference)
                share_CD = shares(t.decisions, t.share * votes_C, self.objective)
                losses.append((terms_CD.loss * share_CD).sum() / count)
                totals.add(terms_CD, share_CD, t.decisions, losses[-1])
            self.weights.backward(sum(losses[1:], losses[0]))

    def _together(self, batches: list[Transitions]) -> Iterator[list[tuple[Transitions, Transitions]]]:
        """Those that are evaluated at once: one after the other, or as many as are no more states than a batch may have."""
        group: list[tuple[Transitions, Transitions]] = []
        most = self.rollouts.config.micro_batch if self.joins else 0
        for pair in self._on_device(batches):
            if group and sum(len(t.states) for _, t in [*group, pair]) > most:
                yield group
                group = []
            group.append(pair)
        if group:
            yield group

    def _replayed(self, batches: list[Transitions]) -> list[Tensor]:
        """[B, ...] of each. While the weights are those of the rollout, what it has kept is not evaluated again, once the check
        has seen that it would be the same."""
        t, same = batches[0], not (self.moved or self.check)
        if same and t.graphed is not None:
            return [t.graphed]
        if same and t.against is not None:
            assert isinstance(self.policy, Guided), "others keep nothing"
            return [self.policy.predict_from(t.states, t.prompts, t.step, t.against)]
        return self._predicted(batches)

    def _predicted(self, batches: list[Transitions]) -> list[Tensor]:
        """[B, ...] of each."""
        if len(batches) == 1:
            return [trained_by(self.policy).predict(t.states, t.prompts, t.step) for t in batches]
        assert isinstance(self.policy, Joining), "`Config` asks this of a policy whose steps are joined"
        return self.policy.predict_together([(t.states, t.prompts, t.step) for t in batches])

    def _on_device(self, batches: list[Transitions]) -> Iterator[tuple[Transitions, Transitions]]:
        """Pairs (the batch where it waits, the batch on the device)."""
        yield from zip(batches, ahead(batches, self.policy.device) if self.on_host else batches, strict=True)

    def _terms(
        self, t: Transitions, predicted: Tensor | None, reference: Tensor | None, advantage_C1: Tensor, mean_weight: float
    ) -> Terms:
        """`predicted` and `reference` [B, ...]."""
        if self.gradient:
            return terms(self.gradient(t, reference), self.objective)
        assert predicted is not None, "only the rewards' own gradient needs no prediction"
        x, law, prediction = t.states[t.parent], t.law, predicted[t.parent]
        log_prob_CD = law.log_prob(x, prediction, t.next_states)
        if self.check:
            self.check.see(t, prediction, log_prob_CD - t.log_prob)
        taught = self.teacher.predict(t.states, t.prompts, t.step)[t.parent] if self.teacher else None
        then = t.prediction[t.parent] if t.prediction is not None and self.objective.needs_old_kl else None
        before = None if reference is None else reference[t.parent]
        surrogate, compares = self.objective.surrogate, self.objective.surrogate.needs_reference
        inputs = LossInputs(
            log_prob_CD=log_prob_CD,
            log_prob_old_CD=t.log_prob,
            advantage_C1=advantage_C1,
            weight_CD=self._weight_CD(t, mean_weight),
            decisions_CD=t.decisions,
            tau_C1=law.tau[:, None],
            dt_C1=law.dt[:, None],
            g_C1=law.g[:, None],
            unit=self.unit,
            kl_old_CD=None if then is None else law.kl(x, prediction, then, t.next_states),
            kl_reference_CD=None if before is None else law.kl(x, prediction, before, t.next_states),
            entropy_CD=law.entropy(prediction.detach()) if self.objective.needs_entropy else None,
            log_prob_reference_CD=law.log_prob(x, before, t.next_states) if before is not None and compares else None,
            group_C=torch.tensor([g for g, _ in t.places], device=x.device) if surrogate.compares_group else None,
            noised=_noised(t, prediction) if surrogate.needs_samples else None,
            **({} if taught is None else self._of_teacher(t, prediction, taught, before)),
        )
        return terms(inputs, self.objective)

    def _of_teacher(self, t: Transitions, prediction: Tensor, taught: Tensor, before: Tensor | None) -> dict[str, Tensor]:
        """What the objective reads of a teacher that predicts `taught`."""
        law, x, reads = t.law, t.states[t.parent], self.objective.surrogate.reads_teacher
        said = {"kl_teacher_CD": law.kl(x, prediction, taught, t.next_states)} if self.objective.distils else {}
        if reads == "log_prob":
            said["log_prob_teacher_CD"] = law.log_prob(x, taught, t.next_states)
        if reads == "contrast":
            said["contrast_CD"] = _contrast(t, taught, before)
        return said

    def _weight_CD(self, t: Transitions, mean_weight: float) -> Tensor:
        """[C, 1], or [C, D] where decisions weigh differently."""
        own = 1.0 if t.weight is None else t.weight
        if self.objective.weight == "confidence":
            return own * t.law.confidence(t.next_states)
        return own * (step_weights(t.law.tau, t.law.g, self.objective) / mean_weight)[:, None]

    @torch.no_grad()
    def _references(self, batches: list[Transitions]) -> list[Tensor]:
        """[B, ...] of each: what the reference predicts."""
        known = [t.reference for t in batches if t.reference is not None]
        if len(known) == len(batches):
            return known
        with self._as_reference():
            return self._predicted(batches)

    def _as_reference(self) -> AbstractContextManager[None]:
        if self.objective.reference == "start":
            return self.policy.reference()
        assert self.weights.ema, "`Config` asks for an average that is a reference"
        return self.weights.ema.applied()

    def _step(self, totals: "Totals", update: int) -> None:
        if self.check:
            self.check()
            self.check = None
        norm = self.weights.gradient_norm()
        self.weights.require_finite(totals.finite, norm, update)
        self.begun = self.moved = True
        if self.weights.step(update):
            totals.norms.append(float(norm))


def _contrast(t: Transitions, taught: Tensor, before: Tensor | None) -> Tensor:
    """[C, D]: how likely the ids are under softmax(2 log p_teacher - log p_reference)."""
    law = t.law
    assert isinstance(law, Choosing) and before is not None, "`Config` asks this of what weighs ids"
    log_p_before = law.log_probs(before)
    apart = (2.0 * law.log_probs(taught) - log_p_before).masked_fill(log_p_before.isneginf(), -torch.inf).softmax(-1)
    return apart.gather(-1, law.choices(t.next_states).clamp(min=0)[..., None]).squeeze(-1)


def _noised(t: Transitions, prediction: Tensor) -> Noised:
    assert t.prediction is not None, "an objective that needs samples keeps what the rollout said of them"
    return Noised(prediction, t.prediction[t.parent], lambda other: t.law.error(t.states[t.parent], other, t.next_states))


class Totals:
    """Sums over the transitions of an update; `sums` are those of each batch, `worst` is the largest |log-ratio| of each
    optimizer step, `norms` are the gradients'. What is added stays on the device, so that nobody waits for it between two
    batches of a step."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.norms: list[float] = []
        self.worst: list[Tensor | float] = []
        self.all_finite: Tensor | bool = True

    @property
    def finite(self) -> bool:
        """Whether all losses so far are."""
        return bool(self.all_finite)

    def begin(self) -> None:
        """What is added from here on belongs to another optimizer step."""
        self.worst.append(0.0)

    @torch.no_grad()
    def add(self, terms_CD: Terms, share_CD: Tensor, decisions_CD: Tensor, loss: Tensor) -> None:
        largest = (terms_CD.log_ratio * decisions_CD).abs().max()
        self.worst[-1] = torch.fmax(largest, torch.as_tensor(self.worst[-1], device=largest.device))
        self.all_finite = torch.isfinite(loss) & self.all_finite
        clipped, kl, auxiliary = ((row * share_CD).sum() for row in (terms_CD.clipped, terms_CD.kl, terms_CD.auxiliary))
        self.sums.append(torch.stack([share_CD.sum(), loss, clipped, kl, auxiliary]))

    def metrics(self, processes: Processes, auxiliary: bool = False) -> dict[str, float]:
        """With the `auxiliary` terms, weighted by their coefficients, where there are any."""
        batches = torch.stack(self.sums).tolist() if self.sums else []
        everyone = processes.gather([(batches, [float(worst) for worst in self.worst])])
        rows = [[0.0] * 5, *(row for batches, _ in everyone for row in batches)]
        count, loss, clipped, kl, beside = (fsum(values) for values in zip(*rows, strict=True))
        return {
            "loss": loss / max(len(self.norms), 1),
            "ratio/first_log_abs_max": max(sum(worst[:1]) for _, worst in everyone),
            "ratio/log_abs_max": max(max(worst, default=0.0) for _, worst in everyone),
            "ratio/clip_fraction": clipped / max(count, 1.0),
            "kl": kl / max(count, 1.0),
            **({"auxiliary": beside / max(count, 1.0)} if auxiliary else {}),
            "grad_norm": float(np.mean(self.norms)) if self.norms else 0.0,
            "optimizer_steps": len(self.norms),
        }
