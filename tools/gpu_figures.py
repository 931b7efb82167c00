"""Memory, time and use of a GPU by SD3.5-medium and Wan2.1-1.3B at their real sizes, beside what `flowgrpo plan` estimates.

    python tools/gpu_figures.py [--tiny] [--without-compile] [MODEL ...]

Sizes are those of the published configs; weights are random and tokenizers stand-ins, so nothing is read from a hub. Each table
is a process of its own, since compiled blocks run uncompiled after a count of operations. `--tiny` takes pipelines that a CPU can
run, where memory is not measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import Work, tiny
from flowgrpo.policies.diffusers import DiffusersConfig, Runtime
from flowgrpo.policies.diffusers._memory import memory
from flowgrpo.training.bench.real_pipelines import sd35_medium, wan21_small

GIB = 2**30
STEPS = 10


@dataclass(frozen=True)
class Case:
    """A model, its miniature, and what is made of it: `states` at once with the pipeline's `call`."""

    make: Callable[[], DiffusionPipeline]
    miniature: str
    call: dict[str, Any]
    states: int
    runtime: Runtime = field(default_factory=Runtime)


CASES = {
    "sd3.5-medium": Case(sd35_medium, "sd3", {"height": 512, "width": 512, "guidance_scale": 4.5}, 8),
    "wan2.1-1.3b": Case(
        wan21_small,
        "wan",
        {"height": 480, "width": 832, "num_frames": 33, "guidance_scale": 5.0},
        1,
        Runtime(gradient_checkpointing=True),
    ),
}


@dataclass
class Figures:
    """By phase: seconds, floating point operations, and bytes at the peak, measured and estimated."""

    seconds: dict[str, float] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    estimates: dict[str, int] = field(default_factory=dict)
    most_operations_a_second: float = 0.0


def measure(name: str, small: bool, compiled: bool) -> Figures:
    case, device = CASES[name], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        call = save(case, small, device, Path(folder))
        runtime = case.runtime.model_copy(update={"compile": "blocks" if compiled else "off"})
        dtype = "fp32" if small else "bf16"
        config = DiffusersConfig(model=folder, steps=4 if small else STEPS, dtype=dtype, call=call, runtime=runtime)
        return run(config, case.states, device, count=not compiled)


def save(case: Case, small: bool, device: torch.device, folder: Path) -> dict[str, Any]:
    """Write the pipeline, with random weights made on the device; its call."""
    if small:
        entry = tiny.pipelines()[case.miniature]
        entry.build().save_pretrained(folder)
        return entry.call
    with device:
        case.make().to(torch.bfloat16).save_pretrained(folder)
    return case.call


def run(config: DiffusersConfig, states: int, device: torch.device, count: bool) -> Figures:
    found = Figures()
    with phase(found, "load", device):
        policy = config.build(device, seed=0)
    prompts = [Prompt(i, f"a red circle number {i}") for i in range(states)]
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-4)

    def update() -> None:
        policy.predict(x, prompts, 0).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def forward() -> None:
        with torch.no_grad():
            policy.predict(x, prompts, 0)

    with phase(found, "encode", device):
        x = policy.start(prompts, [("figures", i) for i in range(states)])
    phases = {"rollout": forward, "decode": lambda: policy.decode(x, prompts), "update": update}
    for name, work in phases.items():
        work()
        with phase(found, name, device):
            work()
    if count:
        found.operations = {name: operations(work) for name, work in phases.items()}
    estimated = memory(config, Work(states=states, samples=states))
    found.estimates = {name: sum(parts.values()) for name, parts in estimated.items()}
    found.most_operations_a_second = speed(device)
    return found


@contextmanager
def phase(found: Figures, name: str, device: torch.device) -> Iterator[None]:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    yield
    if on_gpu:
        torch.cuda.synchronize()
        found.peaks[name] = torch.cuda.max_memory_allocated()
    found.seconds[name] = time.perf_counter() - start


def operations(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def speed(device: torch.device) -> float:
    """Operations a second of the best of three large products of matrices."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        timed = Figures()
        with phase(timed, "product", device):
            a @ a
        seconds.append(timed.seconds["product"])
    return 2 * size**3 / min(seconds[1:])


def in_a_process(name: str, small: bool, compiled: bool) -> Figures:
    command = [sys.executable, __file__, name, "--one", json.dumps({"small": small, "compiled": compiled})]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def table(name: str, found: Figures, operations_by_phase: dict[str, int], compiled: bool) -> str:
    lines = [f"{name}{', compiled blocks' if compiled else ''}"]
    for key, seconds in found.seconds.items():
        done = operations_by_phase.get(key)
        share = f"{done / seconds / found.most_operations_a_second:>6.1%} of peak" if done else ""
        measured = f"{found.peaks[key] / GIB:>7.2f} GiB" if key in found.peaks else "no GPU: memory not measured"
        lines.append(f"  {key:<8} {seconds:>9.3f} s  {measured}, plan {found.estimates[key] / GIB:>7.2f} GiB  {share}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--tiny", action="store_true", help="tiny pipelines of the same classes")
    parser.add_argument("--without-compile", action="store_true", help="leave the compiled runs out")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := {*arguments.models} - {*CASES}:
        parser.error(f"{sorted(unknown)[0]} is not one of {', '.join(CASES)}")
    if arguments.one:
        print(json.dumps(asdict(measure(arguments.models[0], **arguments.one))))
        return
    if not (arguments.tiny or torch.cuda.is_available()):
        parser.error("the real sizes need a GPU; --tiny runs here")
    for name in arguments.models or CASES:
        plain = in_a_process(name, arguments.tiny, compiled=False)
        print(table(name, plain, plain.operations, compiled=False), flush=True)
        if not arguments.without_compile:
            print(table(name, in_a_process(name, arguments.tiny, compiled=True), plain.operations, compiled=True), flush=True)


if __name__ == "__main__":
    main()
