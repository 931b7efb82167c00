"""Fill the shapes of groups with states: one network evaluation per state, level by level.

B states of one evaluation, C trained transitions that leave them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key, Noise
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Outputs, Samples, Undecoded
from flowgrpo.policies._finite import numbers
from flowgrpo.policies.protocol import Guided, Law, Policy, Posing, Watchable
from flowgrpo.sampling.kernels import Kernel, Move
from flowgrpo.sampling.shape import Node, Shape
from flowgrpo.training.host import on_host
from flowgrpo.training.pairs import encoded

Place = tuple[int, int]
"""(group in the block, node in the shape)."""
LARGE = ("states", "next_states", "prediction", "reference", "against")
"""What of `Transitions` has the size of a state."""


@dataclass
class Transitions:
    """One network evaluation of B states and the C trained transitions that leave them.

    The update evaluates the same B states together again, so that its log-probs start out equal bit for bit.
    `parent` holds rows of `states`, [C], or [C, K] for outcomes that are scored as wholes at K states each. `log_prob` and
    `decisions` are [C, D]; decisions with 0 are in no loss. `prediction` and `reference` are [B, ...] and present only when the
    objective needs them, as is the `weight` [C, D] of decisions. Of the vote of its place in the loss a transition has the
    `share`. `tails` [C] are what the gradient of the rewards goes back through, where that is what trains. `against` [B, K, ...]
    is what guidance moved away from, where that has no gradient; `graphed` [B, ...] the prediction with its graph, where that is
    kept.
    A state that forks is evaluated once and left several times; B = 2, C = 3:

        states        next_states         parent = [0, 0, 1]
        row 0 --+---> row 0               states[parent] [C, ...] is what each transition leaves,
                +---> row 1               prediction[parent] what the network said there
        row 1 ------> row 2
    """

    step: int
    prompts: list[Prompt]
    states: Tensor
    parent: Tensor
    places: list[Place]
    law: Law
    next_states: Tensor
    log_prob: Tensor
    decisions: Tensor
    prediction: Tensor | None = None
    reference: Tensor | None = None
    share: float = 1.0
    weight: Tensor | None = None
    tails: list[tuple[Move, ...]] = field(default_factory=list)
    against: Tensor | None = None
    graphed: Tensor | None = None

    def take(self, rows: list[int]) -> "Transitions":
        """These transitions, and only the states that they leave, without a graph."""
        index = torch.tensor(rows, device=self.parent.device)
        left, parent = torch.unique(self.parent[index], return_inverse=True)
        state_rows, transition_rows = left.to(self.states.device), index.to(self.states.device)
        return Transitions(
            self.step,
            [self.prompts[i] for i in left.tolist()],
            self.states[state_rows],
            parent,
            [self.places[i] for i in rows],
            self.law.select(index),
            self.next_states[transition_rows],
            self.log_prob[index],
            self.decisions[index],
            None if self.prediction is None else self.prediction[state_rows],
            None if self.reference is None else self.reference[state_rows],
            self.share,
            None if self.weight is None else self.weight[index],
            [self.tails[i] for i in rows] if self.tails else [],
            None if self.against is None else self.against[state_rows],
        )

    def on_host(self) -> "Transitions":
        """The same, with what is large in main memory."""
        return self._moved(on_host)

    def on(self, device: torch.device) -> "Transitions":
        """The same, with what is large on the device; it may still be on its way there."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def tensors(self) -> list[Tensor]:
        """What is large."""
        return list(self._large().values())

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "Transitions":
        moved: dict[str, Any] = {name: move(tensor) for name, tensor in self._large().items()}
        return replace(self, **moved)

    def _large(self) -> dict[str, Tensor]:
        return {name: vars(self)[name] for name in LARGE if vars(self)[name] is not None}


@dataclass
class Block:
    """A few groups rolled out together, one of each prompt and of each of the `shapes`. `samples` holds their leaves, group by
    group, in the order of `Shape.leaves`, and `finals` [B, ...] are their states; `valued` the states that are scored on their
    way, in the order of `Shape.scored`; `features` [W, F] for each group those of its W watched states, in the order of
    `Shape.watched`."""

    prompts: list[Prompt]
    shapes: list[Shape]
    samples: Samples
    finals: Tensor
    transitions: list[Transitions]
    network_evaluations: int
    valued: Samples | None = None
    features: list[np.ndarray | None] = field(default_factory=list)

    def rewards(self, scores: Mapping[str, np.ndarray], on_the_way: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """For each group its rewards [N] by label, NaN where a node was not scored; from the scores by label of all samples, and
        of the states that are valued on their way."""
        rows = [{label: np.full(len(shape.nodes), np.nan) for label in scores} for shape in self.shapes]
        for places, some in ((leaves_of(self.shapes), scores), (valued_in(self.shapes), on_the_way)):
            for label, values in some.items():
                for (group, node), value in zip(places, values, strict=True):
                    rows[group][label][node] = value
        return rows


def leaves_of(shapes: Sequence[Shape]) -> list[Place]:
    return [(g, leaf) for g, shape in enumerate(shapes) for leaf in shape.leaves]


def valued_in(shapes: Sequence[Shape]) -> list[Place]:
    return [(g, node) for g, shape in enumerate(shapes) for node in shape.scored]


@dataclass
class _Run:
    policy: Policy
    prompts: list[Prompt]
    shapes: list[Shape]
    key: Key
    keep_predictions: bool
    keep_against: bool
    keep_graphs: bool
    states: dict[Place, Tensor] = field(default_factory=dict)
    valued: dict[Place, Tensor] = field(default_factory=dict)
    features: dict[Place, np.ndarray] = field(default_factory=dict)
    histories: dict[Place, Tensor] = field(default_factory=dict)
    transitions: list[Transitions] = field(default_factory=list)
    evaluations: int = 0

    def node(self, place: Place) -> Node:
        group, number = place
        return self.shapes[group].nodes[number]

    def move(self, place: Place) -> Move:
        """The transition that makes the state at this place."""
        group, number = place
        return self.shapes[group].move(number)

    def prompt(self, place: Place) -> Prompt:
        """As it is asked of the sample that this state belongs to."""
        group, number = place
        shape = self.shapes[group]
        return self.prompts[group].asked_of(shape.nodes[shape.roots[number]].member)

    def key_of(self, place: Place) -> Key:
        node = self.node(place)
        return (*self.key, self.prompts[place[0]].index, node.member, node.branch, node.step)

    def noise(self, place: Place) -> Noise:
        node = self.node(place)
        if not node.correlation or node.parent is None:
            return Noise(self.key_of(place))
        return Noise(self.key_of(place), (*self.key_of((place[0], node.parent)), "siblings"), node.correlation)


@torch.no_grad()
def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    shapes: Sequence[Shape],
    key: Key,
    micro_batch: int,
    keep_predictions: bool,
    keep_against: bool = False,
    keep_graphs: bool = False,
) -> Block:
    """Roll out a group for each prompt, of the shape beside it; all prompts have one `batch_key`, `key` is (run seed, update).

    At most `micro_batch` states are evaluated, and at most as many decoded, at once.
    """
    run = _Run(policy, list(prompts), list(shapes), key, keep_predictions, keep_against, keep_graphs)
    _start(run, micro_batch)
    for step in range(max(node.step for shape in shapes for node in shape.nodes)):
        for places in _evaluations(run, step, micro_batch):
            _advance(run, step, places)
    if policy.posing:
        _pose(run, policy.posing, micro_batch)
    _settle(run)
    finals = torch.stack([run.states[place] for place in leaves_of(run.shapes)])
    samples, valued = _samples(run, finals, micro_batch), _valued(run)
    return Block(run.prompts, run.shapes, samples, finals, run.transitions, run.evaluations, valued, _features(run))


def _start(run: _Run, micro_batch: int) -> None:
    places = [(g, i) for g, shape in enumerate(run.shapes) for i, node in enumerate(shape.nodes) if node.parent is None]
    for chunk in _chunks(places, micro_batch):
        prompts = [run.prompt(place) for place in chunk]
        if run.node(chunk[0]).step:
            states = encoded(run.policy, prompts, [run.node(place).member for place in chunk])
        else:
            states = run.policy.start(prompts, [run.key_of(place) for place in chunk])
        run.states.update(zip(chunk, states, strict=True))


def _evaluations(run: _Run, step: int, micro_batch: int) -> Iterator[list[Place]]:
    """The states to evaluate at a step; those with trained transitions apart, since they are evaluated again."""
    for trained in (True, False):
        places = [
            (g, i)
            for g, shape in enumerate(run.shapes)
            for i, (node, children) in enumerate(zip(shape.nodes, shape.children, strict=True))
            if node.step == step and children and _is_left_trained(shape, i) == trained
        ]
        yield from _chunks(places, micro_batch)


def _is_left_trained(shape: Shape, node: int) -> bool:
    """Whether a trained transition leaves it."""
    return any(shape.nodes[child].trained for child in shape.children[node])


def _advance(run: _Run, step: int, places: list[Place]) -> None:
    """Evaluate these states once and draw all their children."""
    prompts = [run.prompt(place) for place in places]
    run.valued |= {place: run.states[place] for place in places if run.node(place).scored}
    states = torch.stack([run.states.pop(place) for place in places])
    said, against = _evaluated(run, states, prompts, step, places)
    prediction = numbers(said.detach(), step)
    run.evaluations += len(places)
    children = [(row, (g, child)) for row, (g, i) in enumerate(places) for child in run.shapes[g].children[i]]
    parent = torch.tensor([row for row, _ in children], device=states.device)
    targets = [place for _, place in children]
    law = run.policy.law([run.move(place) for place in targets], prompts)
    histories = [run.histories.get(places[row]) for row, _ in children]
    next_states = law.sample(states[parent], prediction[parent], [run.noise(place) for place in targets], histories)
    run.states.update(zip(targets, next_states, strict=True))
    _remember(run, targets, law.history, states[parent], prediction[parent])
    for place in places:
        run.histories.pop(place, None)
    trained = [i for i, place in enumerate(targets) if run.node(place).trained]
    if trained and run.policy.posing is None:
        rows = torch.tensor(trained, device=states.device)
        trained_law, trained_places = law.select(rows), [targets[i] for i in trained]
        backward = bool(run.node(trained_places[0]).backward)
        tails = [run.shapes[g].tail(node) for g, node in trained_places] if backward else []
        if not backward:
            _require_density(trained_law, run.node(trained_places[0]).kernel, step)
        chosen = parent[rows], trained_places, trained_law, said, next_states[rows]
        _record(run, step, prompts, states, *chosen, tails=tails, against=against)


def _evaluated(run: _Run, states: Tensor, prompts: list[Prompt], step: int, places: list[Place]) -> tuple[Tensor, Tensor | None]:
    """What the network says of the states at these places, and what guidance moved away from where that is kept; the features of
    those that are watched are kept."""
    if not any(run.node(place).watched for place in places):
        if run.keep_graphs and run.policy.posing is None and any(_is_left_trained(run.shapes[g], i) for g, i in places):
            with torch.enable_grad():
                return run.policy.predict(states, prompts, step), None
        if run.keep_against and isinstance(run.policy, Guided):
            return run.policy.predict_both(states, prompts, step)
        return run.policy.predict(states, prompts, step), None
    assert isinstance(run.policy, Watchable), "`Critic` asks this of a policy before it is rolled out"
    prediction, features = run.policy.watch(states, prompts, step)
    rows = zip(places, features.cpu().numpy(), strict=True)
    run.features |= {place: row for place, row in rows if run.node(place).watched}
    return prediction, None


def _record(
    run: _Run,
    step: int,
    prompts: list[Prompt],
    states: Tensor,
    parent: Tensor,
    places: list[Place],
    law: Law,
    said: Tensor,
    next_states: Tensor,
    share: float = 1.0,
    tails: Sequence[tuple[Move, ...]] = (),
    against: Tensor | None = None,
) -> None:
    x, prediction = states[parent], said.detach()
    log_prob = x.new_zeros(len(x), 1) if tails else law.log_prob(x, prediction[parent], next_states)
    old = prediction if run.keep_predictions else None
    run.transitions.append(
        Transitions(
            step,
            prompts,
            states,
            parent,
            places,
            law,
            next_states,
            log_prob,
            torch.ones_like(log_prob),
            old,
            share=share,
            tails=[*tails],
            against=against,
            graphed=said if said.requires_grad else None,
        )
    )


def _pose(run: _Run, posing: Posing, micro_batch: int) -> None:
    """Score the outcomes as wholes. No group is torn that fits into one batch."""
    for chunk in _whole_groups(run.shapes, max(1, micro_batch // posing.together)):
        outcomes, prompts = torch.stack([run.states[place] for place in chunk]), [run.prompt(place) for place in chunk]
        keys, groups = [(*run.key_of(place), "pose") for place in chunk], [(*run.key, p.index, "pose") for p in prompts]
        for posed in posing(outcomes, prompts, keys, groups):
            rows = range(len(chunk)) if posed.rows is None else posed.rows
            asked = [prompts[row] for row in rows for _ in range(len(posed.states) // len(rows))]
            with torch.set_grad_enabled(run.keep_graphs):
                said = posing.predict(posed.states, asked, posed.step)
            numbers(said.detach(), posed.step)
            run.evaluations += len(posed.states)
            places, finished = [chunk[row] for row in rows], outcomes[list(rows)]
            _record(run, posed.step, asked, posed.states, posed.parent, places, posed.law, said, finished, posed.share)


def _whole_groups(shapes: Sequence[Shape], size: int) -> Iterator[list[Place]]:
    """The trained places, in batches of at most `size`."""
    batch: list[Place] = []
    for g, shape in enumerate(shapes):
        for part in _chunks([(g, i) for i in shape.trained], size):
            if len(batch) + len(part) > size:
                yield batch
                batch = []
            batch += part
    if batch:
        yield batch


def _settle(run: _Run) -> None:
    """Now that the outcomes are known: which decisions does any outcome below a transition depend on?"""
    for t in run.transitions:
        below = [(row, (g, leaf)) for row, (g, node) in enumerate(t.places) for leaf in run.shapes[g].outcomes_below[node]]
        rows = torch.tensor([row for row, _ in below], device=t.parent.device)
        outcomes = torch.stack([run.states[place] for _, place in below])
        used = t.law.select(rows).decisions(t.next_states[rows], outcomes)
        t.decisions = torch.zeros_like(t.log_prob).index_add_(0, rows, used).clamp(max=1.0)


def _remember(run: _Run, places: list[Place], history: Callable[[Tensor, Tensor], Tensor], x: Tensor, prediction: Tensor) -> None:
    """Keep what a multistep kernel will want to know of these states once it has left them."""
    multistep = [i for i, place in enumerate(places) if run.move(place).kernel.multistep]
    if multistep:
        rows = history(x, prediction)
        run.histories.update({places[i]: rows[i] for i in multistep})


def _require_density(law: Law, kernel: Kernel | None, step: int) -> None:
    if bool((law.tau <= 0).any()):
        name = kernel.type if kernel else "?"
        raise UserError(f"kernel {name} adds no noise at step {step}, so it can't be trained there; leave it out")


def _samples(run: _Run, states: Tensor, micro_batch: int) -> Samples:
    """The leaves, in these states, decoded when they are looked at."""
    places = leaves_of(run.shapes)
    policy, prompts = run.policy, [run.prompt(place) for place in places]

    def decode() -> Outputs:
        rows = range(0, len(places), micro_batch)
        parts = [policy.decode(states[i : i + micro_batch], prompts[i : i + micro_batch]) for i in rows]
        return Samples.concatenate(parts).decoded

    return _undecoded(run, places, Undecoded(decode), states)


def _valued(run: _Run) -> Samples | None:
    """The states that are scored on their way. Those of one level and prompt are a group, whose number no other block has.

    Errors: UserError where the policy's states are no latents.
    """
    places = valued_in(run.shapes)
    if not places:
        return None
    samples = _undecoded(run, places, None, torch.stack([run.valued[place] for place in places]))
    levels = [run.node(place).step for place in places]
    steps = max(node.step for shape in run.shapes for node in shape.nodes)
    groups = [group * (steps + 1) + level for group, level in zip(samples.group, levels, strict=True)]
    return replace(samples.unseen, group=groups)


def _features(run: _Run) -> list[np.ndarray | None]:
    rows = [[run.features[g, node] for node in shape.watched] for g, shape in enumerate(run.shapes)]
    return [np.stack(row) if row else None for row in rows]


def _undecoded(run: _Run, places: list[Place], outputs: Undecoded | None, states: Tensor) -> Samples:
    prompts = [run.prompt(place) for place in places]
    latents = run.policy.latents(states, prompts, [run.node(place).step for place in places])
    return Samples([p.text for p in prompts], [p.metadata for p in prompts], [p.index for p in prompts], outputs, latents)


def _chunks(places: list[Place], size: int) -> Iterator[list[Place]]:
    for i in range(0, len(places), size):
        yield places[i : i + size]
