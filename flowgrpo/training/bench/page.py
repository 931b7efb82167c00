"""A bench as text and as a page."""

import json
from pathlib import Path

from markupsafe import Markup

from flowgrpo.core.whole import write_text
from flowgrpo.pages.bars import Bar, Bars, bar_figure
from flowgrpo.pages.page import Page
from flowgrpo.pages.tables import markdown_table
from flowgrpo.training.bench.phases import PHASES
from flowgrpo.training.bench.result import Bench, Side, as_json

GIB = 2**30


def markdown(bench: Bench) -> str:
    """A table by phase, and what it comes to."""
    heading = ["phase", "seconds a sample", "of peak"]
    heading += ["peak memory, GiB"] if bench.on_gpu else []
    heading += ["baseline, seconds"] if bench.baseline else []
    return "\n\n".join([markdown_table([heading, *(_cells(bench, phase) for phase in PHASES)]), "\n".join(_lines(bench))])


def _cells(bench: Bench, phase: str) -> list[str]:
    spent = bench.own.spent[phase]
    cells = [phase, f"{spent.wall / bench.samples:.4f}", f"{bench.share_of_peak(phase):.1%}"]
    cells += [f"{spent.peak / GIB:.2f}"] if bench.on_gpu else []
    return cells + ([f"{bench.baseline.spent[phase].wall / bench.samples:.4f}"] if bench.baseline else [])


def _lines(bench: Bench) -> list[str]:
    own = bench.own
    lines = [
        f"- {own.wall / bench.samples:.4g} s a sample, {bench.samples_an_hour:,.0f} samples an hour on this {bench.device}, "
        f"the median of {bench.updates} updates of {bench.samples} samples",
        f"- rollout and update reach {bench.share_of_peak('rollout', 'update'):.1%} of the {bench.most / 1e12:.3g} TFLOP/s that "
        "products of matrices reach here",
    ]
    if own.compiling:
        lines.append(f"- compiling took {own.compiling:.0f} s before")
    if bench.idle is not None:
        lines.append(f"- the GPU is idle {bench.idle:.0%} of the time")
    if bench.trained_share < 1.0:
        lines.append(f"- only {bench.trained_share:.0%} of the transitions were trained")
    if bench.baseline:
        by = "clock" if bench.on_gpu else "CPU"
        lines.append(
            f"- {bench.speed_up:.2f} times as fast as Flow-GRPO's published loop ({by} seconds); its first latents are "
            f"{bench.apart:.1e} apart"
        )
    return [*lines, f"- next: {bench.advice}"]


def page(bench: Bench) -> Page:
    """Bars of the seconds of each phase."""
    sides = {"": bench.own, **({"baseline, ": bench.baseline} if bench.baseline else {})}
    bars = [bar for kind, (name, side) in enumerate(sides.items()) for bar in _bars(name, side, bench.samples, kind)]
    figure = bar_figure([Bars("where the time of an update goes", "seconds a sample", bars)])
    text = Markup("<pre>{}</pre>").format(markdown(bench))
    return Page("bench", Markup(figure) + text)


def _bars(name: str, side: Side, samples: int, kind: int) -> list[Bar]:
    seconds = {phase: side.spent[phase].wall / samples for phase in PHASES}
    return [Bar(f"{name}{phase}", value, None, f"{value:.3g}", kind) for phase, value in seconds.items()]


def write_bench(bench: Bench, folder: Path) -> None:
    """Write bench.json and bench.html."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "bench.json", json.dumps(as_json(bench), indent=1) + "\n")
    page(bench).save(folder / "bench.html")
