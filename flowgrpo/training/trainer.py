"""The GRPO trainer. It knows policies, plans, rewards, credit and objectives by their protocols only.

Per update: draw prompts, roll out a tree for each, score the leaves, give credit, optimise.
P prompts, B states of one network evaluation, C trained transitions that leave them, D decisions of a transition.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.errors import NotFinite, UserError
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.data.prompts import Prompt, PromptSampler, batches
from flowgrpo.objective.loss import LossInputs, Terms, noise_weights, shares, terms
from flowgrpo.policies.protocol import Policy
from flowgrpo.runs.checkpoint import load_optimizer, optimizer_tensors
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.beside import Beside
from flowgrpo.training.ema import Ema
from flowgrpo.training.gate import Gate
from flowgrpo.training.host import ahead, on_host
from flowgrpo.training.rollout import Block, Transitions, rollout
from flowgrpo.training.scored import Group, Scored, assess, group_rewards


@dataclass(frozen=True)
class Part:
    """A block of groups, the places of these groups in the update's list of prompts, and the way to their scores."""

    slots: list[int]
    block: Block
    scores: Callable[[], dict[str, np.ndarray]]


class Trainer:
    def __init__(self, config: Config, policy: Policy, prompts: list[Prompt], scorer: Scorer, processes: Processes) -> None:
        self.config, self.policy, self.scorer, self.processes = config, policy, scorer, processes
        self.sampler = PromptSampler(prompts, config.rollout.prompts_per_update, config.seed)
        optimizer = config.optimizer
        self.parts = _parts(policy.trainable())
        if unknown := {*optimizer.rates, *optimizer.turns} - {*self.parts}:
            raise UserError(f"optimizer.rates or turns: {sorted(unknown)} is not trained here; there is {sorted(self.parts)}")
        self.parameters = {name: p for part in self.parts.values() for name, p in part.items()}
        self.optimizer = torch.optim.AdamW(
            [{"params": list(part.values()), "lr": optimizer.rate_of(name)} for name, part in self.parts.items()],
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            eps=optimizer.eps,
        )
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.needs_loss_scaling)
        self.ema = Ema(self.parameters, config.ema.decay) if config.ema else None
        self.beside = Beside(scorer)
        self.updates = 0
        self.optimizer_steps = 0
        self.whole = True
        """Whether the weights are those after `updates` updates: not between an update's first optimizer step and its end."""
        self.gate: Gate | None = Gate(policy)

    def update(self) -> tuple[dict[str, Any], list[Part], Scored]:
        """One update: its metrics, this process's rollouts and their scores."""
        clock = Clock()
        prompts = self.sampler(self.updates)
        shape = self.config.shape(self.updates)
        with self.beside:
            with clock("rollout"):
                parts = self._roll_out(prompts, shape)
            with clock("reward"):
                scored = self._score(parts, shape, prompts)
        with clock("update"), self._turn():
            optimised = self._optimise(parts, scored)
        evaluations = sum(part.block.network_evaluations for part in parts)
        metrics = {
            "update": self.updates,
            **scored.metrics(),
            **optimised,
            "network_evaluations": sum(self.processes.gather([evaluations])),
            **clock.seconds,
        }
        self.updates += 1
        self.whole = True
        return metrics, parts, scored

    def minibatches(self) -> list[list[int]]:
        """The places of the prompts that share an optimizer step."""
        return [list(slots) for slots in self.config.optimizer.minibatches(self.config.rollout.prompts_per_update)]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Inside, only the part whose turn it is has gradients."""
        turns = self.config.optimizer.turns
        waiting = {*self.parts} - {turns[self.updates % len(turns)]} if turns else set()
        parameters = [p for part in waiting for p in self.parts[part].values()]
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
        for parameter in parameters:
            parameter.requires_grad_(True)

    def _roll_out(self, prompts: list[Prompt], shape: Shape) -> list[Part]:
        size, micro_batch = self.config.rollout.prompts_per_block, self.config.rollout.micro_batch
        blocks = [
            [slots[i] for i in places]
            for slots in self.minibatches()
            for places in batches([prompts[s] for s in slots], size, self.config.policy.batch_key)
        ]
        key = (self.config.seed, self.updates)
        keep = self.config.objective.needs_old_prediction
        parts = []
        for slots in bar(self.processes.share(blocks), "roll out", self.processes.is_main):
            block = rollout(self.policy, [prompts[s] for s in slots], shape, key, micro_batch, keep)
            block.transitions = [self._kept(t) for t in block.transitions]
            parts.append(Part(slots, block, self.beside.scores(block.samples)))
        return parts

    def _kept(self, transitions: Transitions) -> Transitions:
        return transitions.on_host() if self.config.rollout.keep == "host" else transitions

    def _score(self, parts: list[Part], shape: Shape, prompts: list[Prompt]) -> Scored:
        groups = dict(self.processes.gather([row for part in parts for row in self._groups(part)]))
        return assess(self.config, shape, prompts, [groups[slot] for slot in sorted(groups)], self.updates)

    def _groups(self, part: Part) -> list[tuple[int, Group]]:
        shape = part.block.shape
        log_probs = np.full((len(part.slots), len(shape.nodes)), np.nan)
        decisions = np.zeros_like(log_probs)
        for t in part.block.transitions:
            rows, nodes = zip(*t.places, strict=True)
            log_probs[rows, nodes] = (t.log_prob * t.decisions).sum(1).cpu().numpy()
            decisions[rows, nodes] = t.decisions.sum(1).cpu().numpy()
        rewards = group_rewards(shape, part.scores())
        return [(slot, Group(*group)) for slot, *group in zip(part.slots, rewards, log_probs, decisions, strict=True)]

    def _optimise(self, parts: list[Part], scored: Scored) -> dict[str, float]:
        totals = Totals()
        work = [(part, self._trained(part, scored)) for part in parts]
        mean_tau = self._mean_tau([transitions for _, batches in work for transitions in batches])
        steps = [slots for _ in range(self.config.optimizer.epochs) for slots in self.minibatches()]
        for slots in bar(steps, "optimise", self.processes.is_main):
            count = scored.counted(slots, self.config.objective.reduce)
            if count:
                totals.begin()
                for part, batches in work:
                    if part.slots[0] in slots:
                        self._accumulate(part, batches, scored, mean_tau, count, totals)
                self._step(totals)
        return totals.metrics(self.processes)

    def _mean_tau(self, batches: list[Transitions]) -> float:
        """Over the transitions of all processes."""
        sums = self.processes.gather([(float(t.law.tau.sum()), len(t.law.tau)) for t in batches])
        return sum(tau for tau, _ in sums) / max(1, sum(count for _, count in sums))

    def _trained(self, part: Part, scored: Scored) -> list[Transitions]:
        """The batches that hold something to train. They are the rollout's own, unless a selection thins them out."""
        kept = [[i for i, (g, node) in enumerate(t.places) if scored.kept[part.slots[g], node]] for t in part.block.transitions]
        pairs = zip(part.block.transitions, kept, strict=True)
        return [self._kept(t.take(rows)) if self.config.selection else t for t, rows in pairs if rows]

    def _accumulate(
        self, part: Part, batches: list[Transitions], scored: Scored, mean_tau: float, count: float, totals: "Totals"
    ) -> None:
        """Add the gradient of this part's share of the loss, the mean over `count` kept transitions or decisions."""
        away = self.config.rollout.keep == "host"
        for waiting, transitions in zip(batches, ahead(batches, self.policy.device) if away else batches, strict=True):
            at = [(part.slots[g], node) for g, node in transitions.places]
            kept = torch.tensor([bool(scored.kept[p]) for p in at], device=self.policy.device)
            advantage = torch.tensor([scored.advantage[p] for p in at], device=kept.device).float()
            found = self._terms(transitions, advantage[:, None], mean_tau)
            if away and transitions.reference is not None:
                waiting.reference = on_host(transitions.reference)
            share = shares(transitions.decisions, kept, self.config.objective)
            loss = (found.loss * share).sum() / count
            self.scaler.scale(loss).backward()
            totals.add(found, share, transitions.decisions, loss)

    def _terms(self, t: Transitions, advantage: Tensor, mean_tau: float) -> Terms:
        objective, epochs = self.config.objective, self.config.optimizer.epochs
        reference = self._reference(t) if objective.kl.coefficient else None
        t.reference = reference if epochs > 1 else None
        x, law = t.states[t.parent], t.law
        prediction = self.policy.predict(t.states, t.prompts, t.step)[t.parent]
        log_prob = law.log_prob(x, prediction, t.next_states)
        if self.gate:
            self.gate.see(t, prediction, log_prob - t.log_prob)
        inputs = LossInputs(
            log_prob=log_prob,
            log_prob_old=t.log_prob,
            advantage=advantage,
            weight=self._weight(t, mean_tau),
            tau=law.tau[:, None],
            dt=law.dt[:, None],
            g=law.g[:, None],
            kl_old=None if t.prediction is None else law.kl(x, prediction, t.prediction[t.parent], t.next_states),
            kl_reference=None if reference is None else law.kl(x, prediction, reference[t.parent], t.next_states),
        )
        return terms(inputs, objective)

    def _weight(self, t: Transitions, mean_tau: float) -> Tensor:
        """[C, 1], or [C, D] where decisions weigh differently."""
        objective = self.config.objective
        if objective.weight == "confidence":
            return t.law.confidence(t.next_states)
        return noise_weights(t.law.tau, objective, mean_tau)[:, None]

    @torch.no_grad()
    def _reference(self, t: Transitions) -> Tensor:
        if t.reference is not None:
            return t.reference
        with self.policy.reference():
            return self.policy.predict(t.states, t.prompts, t.step)

    def _step(self, totals: "Totals") -> None:
        if self.gate:
            self.gate.check()
            self.gate = None
        parameters = [p for p in self.parameters.values() if p.requires_grad]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        self.processes.sum(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.max_grad_norm)
        if not (totals.finite and (torch.isfinite(norm) or self.scaler.is_enabled())):
            raise NotFinite(
                f"update {self.updates}: the loss or its gradient is not finite; nothing of this update is kept; take a lower "
                "optimizer.lr"
            )
        self._set_learning_rate()
        self.whole = False
        taken = self._take()
        self.optimizer.zero_grad()
        if not taken:
            return
        self.optimizer_steps += 1
        totals.norm(float(norm))
        if self.ema:
            self.ema.update(self.optimizer_steps)

    def _take(self) -> bool:
        """One step of the optimizer, unless the scaler leaves it out because scaled gradients overflow."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    def _set_learning_rate(self) -> None:
        optimizer = self.config.optimizer
        for part, group in zip(self.parts, self.optimizer.param_groups, strict=True):
            group["lr"] = optimizer.rate_of(part) * optimizer.share_of_rate(self.updates)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that a resumed run needs: (named tensors, facts)."""
        tensors: dict[str, dict[str, Tensor]] = {
            "trainable": dict(self.parameters),
            "optimizer": optimizer_tensors(self.optimizer, list(self.parameters)),
        }
        if self.ema:
            tensors["ema"] = self.ema.average
        facts = {"updates": self.updates, "optimizer_steps": self.optimizer_steps, "scaler": self.scaler.state_dict()}
        return tensors, facts

    @property
    def kinds(self) -> list[str]:
        """What the tensors of `state` are."""
        return ["trainable", "optimizer", *(["ema"] if self.ema else [])]

    @torch.no_grad()
    def load(self, tensors: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
        """The inverse of `state`. Errors: ValueError where the tensors are of another model."""
        for kind in ("trainable", "ema")[: 2 if self.ema else 1]:
            shapes = {name: value.shape for name, value in tensors[kind].items()}
            if shapes != {name: parameter.shape for name, parameter in self.parameters.items()}:
                raise ValueError(f"its {kind} tensors are not those of this model")
        if facts["optimizer_steps"] and not tensors["optimizer"]:
            raise ValueError("it has no state of the optimizer")
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors["trainable"][name])
        load_optimizer(self.optimizer, tensors["optimizer"], list(self.parameters))
        if self.ema:
            self.ema.load(tensors["ema"])
        self.updates, self.optimizer_steps = facts["updates"], facts["optimizer_steps"]
        self.scaler.load_state_dict(facts["scaler"])


def _parts(parameters: dict[str, torch.nn.Parameter]) -> dict[str, dict[str, torch.nn.Parameter]]:
    """Parameters by the first word of their names."""
    found: dict[str, dict[str, torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        found.setdefault(name.partition(".")[0], {})[name] = parameter
    return found


class Totals:
    """Sums over the transitions of an update; `worst` is the largest |log-ratio| of each optimizer step."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.norms: list[float] = []
        self.worst: list[float] = []
        self.finite = True

    def begin(self) -> None:
        """What is added from here on belongs to another optimizer step."""
        self.worst.append(0.0)

    def add(self, found: Terms, share: Tensor, decisions: Tensor, loss: Tensor) -> None:
        self.worst[-1] = max(self.worst[-1], (found.log_ratio * decisions).abs().max().item())
        self.finite = self.finite and bool(torch.isfinite(loss))
        self.sums["count"] += float(share.sum())
        self.sums["loss"] += loss.item()
        self.sums["clipped"] += float((found.clipped * share).sum())
        self.sums["kl"] += float((found.kl * share).sum())

    def norm(self, value: float) -> None:
        self.norms.append(value)

    def metrics(self, processes: Processes) -> dict[str, float]:
        everyone = processes.gather([(dict(self.sums), self.worst)])
        total = {key: sum(s.get(key, 0.0) for s, _ in everyone) for key in ("count", "loss", "clipped", "kl")}
        count = max(total["count"], 1.0)
        return {
            "loss": total["loss"] / max(len(self.norms), 1),
            "ratio/first_log_abs_max": max(sum(worst[:1]) for _, worst in everyone),
            "ratio/log_abs_max": max(max(worst, default=0.0) for _, worst in everyone),
            "ratio/clip_fraction": total["clipped"] / count,
            "kl": total["kl"] / count,
            "grad_norm": float(np.mean(self.norms)) if self.norms else 0.0,
            "optimizer_steps": len(self.norms),
        }


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[f"seconds/{phase}"] = round(time.perf_counter() - start, 4)
