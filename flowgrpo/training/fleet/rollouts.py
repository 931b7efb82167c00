"""Groups that other processes roll out, each with a policy of its own that has the trainer's weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.keys import Key
from flowgrpo.core.parts import whole
from flowgrpo.core.processes import Processes
from flowgrpo.core.section import checked
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._weights import put
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.collect import Rollouts, kept
from flowgrpo.training.fleet.on_ray import OnRay, cards, fetched, packed, shared, unpacked
from flowgrpo.training.fleet.pool import Pool
from flowgrpo.training.rollout import Block

KIND = "rollout actor"
Order = tuple[int, list[Any], bytes]
"""(number of the weights, the reference to them, which only those fetch who lack them, the prompts, shapes and key)"""


class Rollers:
    """This trainer's share of those that `config.fleet` asks for. `held` are the weights that they have, in main memory."""

    def __init__(self, config: Config, trainers: Processes) -> None:
        fleet, tree = config.fleet, config.model_dump(mode="json")
        gpus = cards(fleet.gpus, trainers.device)
        self.device, self.keep = trainers.device, config.rollout.keep
        self.pool: Pool[Order, bytes] = Pool(
            KIND, lambda number: OnRay(KIND, Roller, (tree,), gpus, fleet.patience), trainers.part(fleet.rollout)
        )
        self.held: dict[str, Tensor] = {}
        self.number = 0
        self.reference: Any = None

    def publish(self, weights: Mapping[str, Tensor]) -> None:
        """Roll out with copies of these from now on. All trainers ask for it together where they hold parts of weights."""
        self.held = {name: whole(weight).to("cpu", copy=True) for name, weight in weights.items()}
        self.number += 1
        self.reference = shared(packed(self.held))

    def begin(self, prompts: Sequence[Prompt], shapes: Sequence[Shape], key: Key) -> Callable[[], Block]:
        """Of a block of groups, each of the shape beside its prompt: the way to it. It is rolled out with these weights, whatever
        is published later."""
        future = self.pool.submit((self.number, [self.reference], packed((list(prompts), list(shapes), key))))
        return lambda: self.opened(future.result())

    def opened(self, content: bytes) -> Block:
        """A block, its states where they wait for the update."""
        block: Block = unpacked(content, self.device)
        block.transitions = [kept(t, self.keep) for t in block.transitions]
        return block

    def close(self) -> None:
        self.pool.close()


class Roller:
    """Rolls blocks out, in a process of its own."""

    def __init__(self, tree: dict[str, Any]) -> None:
        config = checked(Config, tree, "the fleet's config")
        self.device = Processes.alone().device
        self.policy = config.policy.build(self.device, config.seed)
        self.rollouts = Rollouts.of(config, self.policy, config.objective.needs_old_prediction)
        self.number = 0

    def answer(self, order: Order) -> bytes:
        number, [reference], asked = order
        if number != self.number:
            self._take(reference)
            self.number = number
        prompts, shapes, key = unpacked(asked, self.device)
        return packed(self.rollouts(prompts, shapes, key))

    def _take(self, reference: Any) -> None:
        weights = unpacked(fetched(reference), self.device)
        parameters = self.policy.trainable()
        put(parameters.values(), [weights[name] for name in parameters])
