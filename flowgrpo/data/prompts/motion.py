"""Prompts for clips in which something moves: who, how, where, and what the camera does, as
`{"prompt": "A kite drifts over a harbour", "moves": "a kite drifts over"}`.

Splits are by who moves and how.
"""

import numpy as np

from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts._rows import Row, distinct, held_out

MOVERS = {
    "an animal": ("a dog", "a horse", "a white cat", "a fox", "an elephant", "a bear", "a deer", "a goat", "a wolf", "a lion"),
    "a bird": ("an eagle", "a flock of gulls", "a butterfly", "a hummingbird", "a swarm of bees", "a crane", "a crow"),
    "a vehicle": ("a red car", "a bus", "a steam train", "a motorcycle", "a bicycle", "a yellow taxi", "a truck", "a tram"),
    "a boat": ("a sailing boat", "a canoe", "a ferry", "a swan", "a paper boat", "a rowing boat", "a duck"),
    "a person": ("a dancer", "a child", "a skater", "an old man", "a woman in a red coat", "a runner", "a robot", "an astronaut"),
    "in the air": ("a kite", "a hot-air balloon", "a paper plane", "a soap bubble", "a drone", "a feather", "an autumn leaf"),
}
MOVES = {
    "an animal": ("runs across", "walks slowly through", "jumps over a log in", "turns around and looks back in"),
    "a bird": ("flies low over", "circles above", "lands in", "takes off from"),
    "a vehicle": ("drives fast through", "turns a corner in", "stops in", "passes from left to right through"),
    "a boat": ("drifts past", "crosses the water beside", "turns in the waves near", "glides slowly along"),
    "a person": ("walks towards the camera in", "spins around in", "waves and walks away in", "runs through"),
    "in the air": ("drifts over", "rises above", "falls slowly onto", "is carried by the wind across"),
}
PLACES = (
    *("a snowy field", "a beach at sunset", "a city street at night", "a pine forest", "a meadow of flowers", "a harbour"),
    *("a desert of red sand", "a park in autumn", "a mountain valley", "a village in the rain", "a frozen lake", "an old bridge"),
)
CAMERAS = ("", ", seen from above", ", the camera follows", ", in slow motion", ", the camera pans to the left", ", close up")


def rows(split: str = "train", count: int = 2000, seed: int = 0) -> list[Row]:
    rng = numpy_generator(("motion", split, seed))
    return distinct(lambda: _drawn(rng), count, lambda row: held_out("motion", row["moves"]) == (split == "test"))


def _drawn(rng: np.random.Generator) -> Row:
    kind = _one(rng, (*MOVERS,))
    moves = f"{_one(rng, MOVERS[kind])} {_one(rng, MOVES[kind])}"
    text = f"{moves} {_one(rng, PLACES)}{_one(rng, CAMERAS)}"
    return {"prompt": text[0].upper() + text[1:], "moves": moves}


def _one(rng: np.random.Generator, among: tuple[str, ...]) -> str:
    return among[int(rng.integers(len(among)))]
