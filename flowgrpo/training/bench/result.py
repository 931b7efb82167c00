"""What a bench has found, and what it says would help."""

from dataclasses import dataclass
from typing import Any

from flowgrpo.config.bill import possible
from flowgrpo.config.run import Config
from flowgrpo.training.bench.phases import PHASES, Spent

WAITS = 0.3
"""A GPU that is idle for a larger share of an update waits for its host."""
LARGE = 0.25
"""A phase beside rollout and update that takes a larger share of an update is worth a look."""


@dataclass(frozen=True)
class Side:
    """One way to do the update: the median of what its updates have spent, by phase, and the seconds of compiling before."""

    spent: dict[str, Spent]
    compiling: float
    first_log_ratio: float

    @property
    def wall(self) -> float:
        return sum(spent.wall for spent in self.spent.values())

    @property
    def cpu(self) -> float:
        return sum(spent.cpu for spent in self.spent.values())


@dataclass(frozen=True)
class Bench:
    """`samples` of an update, whose `operations` by phase are counted; `most` operations a second are what large products of
    matrices reach here. `idle` is the share of an update in which the GPU computes nothing; None on a CPU.

    `baseline` did the same updates in turn; `apart` is the largest difference of its first latents, over their size.
    """

    config: Config
    device: str
    samples: int
    updates: int
    own: Side
    operations: dict[str, int]
    most: float
    idle: float | None
    trained_share: float
    baseline: Side | None = None
    apart: float | None = None

    @property
    def on_gpu(self) -> bool:
        return self.idle is not None

    @property
    def speed_up(self) -> float | None:
        """Seconds of the baseline over ours: by the clock on a GPU, on a CPU by the seconds of this process alone."""
        if self.baseline is None:
            return None
        return self.baseline.wall / self.own.wall if self.on_gpu else self.baseline.cpu / self.own.cpu

    def share_of_peak(self, *phases: str) -> float:
        seconds = sum(self.own.spent[phase].wall for phase in phases)
        return sum(self.operations[phase] for phase in phases) / (seconds * self.most) if seconds else 0.0

    @property
    def samples_an_hour(self) -> float:
        return 3600.0 * self.samples / self.own.wall

    @property
    def advice(self) -> str:
        """What would help next."""
        settings: dict[str, Any] = self.config.policy.model_dump()
        runtime = settings.get("runtime") or {}
        if self.on_gpu and runtime.get("compile") == "off":
            return "compile the blocks: policy.runtime.compile=blocks"
        if self.on_gpu and settings.get("dtype") == "fp32":
            return "compute in 16 bits: policy.dtype=bf16"
        if not self.on_gpu and settings.get("dtype") in ("bf16", "fp16") and runtime and not runtime["attention"]:
            return "torch's attention goes back slowly in 16 bits on a CPU: policy.runtime.attention=_native_math"
        if self.idle is not None and self.idle > WAITS:
            return "the GPU waits for the host: evaluate more states at once, with a larger rollout.micro_batch"
        if (settings.get("call") or {}).get("guidance_scale", 1.0) > 1.0 and settings.get("guidance_gradient") == "full":
            return "keep no graph of what guidance moves away from (another gradient): policy.guidance_gradient=conditional"
        if runtime.get("offload_activations"):
            return "if memory allows, keep activations on the GPU: policy.runtime.offload_activations=false"
        if runtime.get("gradient_checkpointing"):
            return "if memory allows, recompute nothing: policy.runtime.gradient_checkpointing=false"
        largest = max(set(PHASES) - {"rollout", "update"}, key=lambda phase: self.own.spent[phase].wall)
        if self.own.spent[largest].wall > LARGE * self.own.wall:
            return f"most of what is beside rollout and update is '{largest}': {HELPS[largest]}"
        if self.config.rollout.keep == "device" and possible(self.config, "rollout.keep=graph"):
            return "if memory allows (flowgrpo plan), let the update use the rollout's own graphs: rollout.keep=graph"
        if not self.on_gpu and runtime and runtime["compile"] != "blocks":
            return "in a long run compile the blocks, which takes a minute or two: policy.runtime.compile=blocks"
        return "nothing stands out: fewer trained steps or network evaluations (flowgrpo plan) are what is left"


HELPS = {
    "encode": "fewer prompts with larger groups are encoded sooner",
    "decode": "a reward that reads latents needs no decoding",
    "reward": "serve it (flowgrpo serve-reward), so that it scores beside the rollout",
}


def as_json(bench: Bench) -> dict[str, Any]:
    return {
        "device": bench.device,
        "samples_per_update": bench.samples,
        "updates": bench.updates,
        **_side(bench.own, bench),
        "samples_per_hour": bench.samples_an_hour,
        "operations_per_sample": {phase: count / bench.samples for phase, count in bench.operations.items()},
        "most_operations_per_second": bench.most,
        "share_of_peak": {
            **{phase: bench.share_of_peak(phase) for phase in PHASES},
            "rollout and update": bench.share_of_peak("rollout", "update"),
        },
        "gpu_idle_share": bench.idle,
        "trained_share": bench.trained_share,
        "baseline": _side(bench.baseline, bench) if bench.baseline else None,
        "speed_up": bench.speed_up,
        "first_latents_apart": bench.apart,
        "advice": bench.advice,
    }


def _side(side: Side, bench: Bench) -> dict[str, Any]:
    spent = side.spent.items()
    return {
        "seconds_per_sample": {phase: one.wall / bench.samples for phase, one in spent},
        "cpu_seconds_per_sample": {phase: one.cpu / bench.samples for phase, one in spent},
        "peak_memory_bytes": {phase: one.peak for phase, one in spent} if bench.on_gpu else None,
        "compile_seconds": side.compiling,
        "first_log_ratio": side.first_log_ratio,
    }
