"""One prompt after the other, in an order of chance."""

import numpy as np

from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompt_sampler import PromptSampler


class Shuffled(PromptSampler):
    """A fresh permutation per epoch, without replacement."""

    def draw(self, count: int, update: int, seed: int, values: np.ndarray) -> np.ndarray:
        epoch, turn = divmod(update, len(values) // count)
        order: np.ndarray = numpy_generator((seed, "prompts", epoch)).permutation(len(values))
        return order[turn * count : (turn + 1) * count]
