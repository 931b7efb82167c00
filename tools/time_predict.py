"""What `predict` costs beyond its network: `python tools/time_predict.py [NAME ...] [--states N] [--repeats N] [--wide]`.

Tiny pipelines by name (sd3, flux, wan and sdxl without), on one thread of the CPU. The bare forward is the denoiser called with
the very arguments that it had in `predict`; the rest is the host's work for a call. The pipeline's own call is what `predict` is
where a step is not written down. All take turns, in CPU seconds of this thread, and the median of each counts. `--wide` gives sd3
two blocks of a real size (1536) instead of its own. `--profile` prints where the time of one pipeline goes.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch

from flowgrpo.core.keys import torch_generator
from flowgrpo.core.plugins import nearest
from flowgrpo.data.prompts import Prompt
from flowgrpo.pages.tables import markdown_table
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.policies.tiny.asked import config_of, prompt_of

STEP = 1
"""The step that is timed: a loop has gone past its first."""
WIDTH = 1536
Forward = Callable[[], Any]


class Timed:
    """`predict` of one pipeline for B states of one prompt, and its bare forward passes."""

    def __init__(self, name: str, states: int, folder: Path, wide: bool) -> None:
        entry = tiny.pipelines()[name]
        pipe = entry.build()
        if wide:
            size = {
                "num_layers": 2,
                "num_attention_heads": WIDTH // 64,
                "attention_head_dim": 64,
                "caption_projection_dim": WIDTH,
            }
            pipe.register_modules(transformer=type(pipe.transformer).from_config({**pipe.transformer.config, **size}))
        settings = config_of(entry, folder).model_dump(include={"steps", "call", "lora"}) | entry.options
        self.policy = DiffusersPolicy(pipe, "cpu", **settings)
        self.prompts: list[Prompt] = [prompt_of(entry, folder)] * states
        start = self.policy.start(self.prompts[:1], [("time",)])
        self.states = torch.randn(states, *start.shape[1:], generator=torch_generator(("time", name)))
        for _ in range(2):  # what is taken twice is written down
            self.predict()
        self.calls = self._recorded()

    @torch.no_grad()
    def predict(self) -> None:
        self.policy.predict(self.states, self.prompts, STEP)

    @torch.no_grad()
    def called(self) -> None:
        """By the pipeline's own code."""
        loop = self.policy.loop(self.prompts)
        for rows in self.policy.rows.calls(self.prompts):
            loop.called(self.states[rows], STEP, self.policy._arguments(self.prompts[rows], torch.Generator()))

    @torch.no_grad()
    def forward(self) -> None:
        for call in self.calls:
            call()

    def _recorded(self) -> list[Forward]:
        """The denoisers' forward passes in one `predict`."""
        calls: list[Forward] = []

        def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(lambda: module(*args, **kwargs))

        handles = [m.register_forward_pre_hook(record, with_kwargs=True) for m in self.policy.modules.values()]
        self.predict()
        for handle in handles:
            handle.remove()
        return calls


def seconds(work: Callable[[], None]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def row(name: str, timed: Timed, repeats: int) -> list[str]:
    """Milliseconds of forward passes, and those of `predict` and of the pipeline's own call beyond them, with the ratios."""
    timed.predict()
    turns = [[seconds(work) for work in (timed.forward, timed.predict, timed.called)] for _ in range(repeats)]
    forward, predict, called = (1e3 * statistics.median(column) for column in zip(*turns, strict=True))
    beyond = [cell for whole in (predict, called) for cell in (f"{whole - forward:.2f}", f"{whole / forward:.3f}")]
    return [name, f"{forward:.2f}", *beyond]


def profiled(timed: Timed, repeats: int) -> None:
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(repeats):
        timed.predict()
    profile.disable()
    pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["sd3", "flux", "wan", "sdxl"], metavar="NAME")
    parser.add_argument("--states", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in tiny.pipelines()]:
        parser.error(f"no tiny pipeline '{unknown[0]}' ({nearest(unknown[0], tiny.pipelines())})")
    if given.wide and given.names != ["sd3"]:
        parser.error("--wide is for sd3 alone")
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    rows = [["pipeline", "forward, ms", "host, ms", "predict / forward", "host of the pipeline's own call, ms", "call / forward"]]
    for name in given.names:
        with tempfile.TemporaryDirectory() as folder:
            timed = Timed(name, given.states, Path(folder), given.wide)
            if given.profile:
                profiled(timed, given.repeats)
            rows.append(row(name, timed, given.repeats))
    print(markdown_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
