"""An evaluation as JSON, Markdown and sentences."""

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flowgrpo.core.whole import write_json
from flowgrpo.data.records import Record
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures
from flowgrpo.evaluation.benchmarks.comparison import Difference, Result, difference, prompt_gains, result
from flowgrpo.evaluation.exam import Exam
from flowgrpo.pages.marks import number, signed
from flowgrpo.pages.page import framed
from flowgrpo.pages.tables import markdown_table

NONE = "\N{EM DASH}"
PACKAGES = ("flowgrpo", "torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Report:
    """`results` of the base model, then of the checkpoints; `differences` of each checkpoint from the base, the metric's first.

    `records` by model, and `folder` holds a folder of each with what it made.
    """

    name: str
    benchmark: Benchmark
    exam: Exam
    folder: Path
    command: str
    device: str
    records: Mapping[str, Sequence[Record]]
    results: Sequence[Result]
    differences: Sequence[Difference]

    def __str__(self) -> str:
        return markdown(self)

    def _repr_html_(self) -> str:
        return framed((self.folder / "report.html").read_text(encoding="utf-8"))

    @property
    def rate(self) -> bool:
        """Whether the metric is 0 or 1 for every sample and all figures are shares, so that they can be read in per cent."""
        benchmark = self.benchmark
        every = [record for records in self.records.values() for record in records]
        figures = [*(found.figures for found in self.results), *benchmark.published.values()]
        zero_or_one = all(record.scores.get(benchmark.metric, 0) in (0, 1) for record in every)
        return zero_or_one and all(0 <= value <= 1 for row in figures for value in row.values())


def report_on(
    name: str,
    benchmark: Benchmark,
    exam: Exam,
    folder: Path,
    command: Sequence[str],
    device: str,
    records: Mapping[str, Sequence[Record]],
) -> Report:
    """`records` of the base model come first."""
    base, *others = records
    labels = sorted(benchmark.rewards, key=lambda label: label != benchmark.metric)

    def compared(model: str, label: str) -> Difference:
        samples = exam.samples_per_prompt
        return difference(model, label, prompt_gains(exam.prompts, samples, label, records[base], records[model]))

    return Report(
        name=name,
        benchmark=benchmark,
        exam=exam,
        folder=folder,
        command=shlex.join(command),
        device=device,
        records=records,
        results=[result(model, benchmark, exam.prompts, found) for model, found in records.items()],
        differences=[compared(model, label) for model in others for label in labels],
    )


def summary(report: Report) -> dict[str, Any]:
    """What summary.json holds."""
    exam, benchmark = report.exam, report.benchmark
    return {
        "benchmark": report.name,
        "metric": benchmark.metric,
        "prompts": len(exam.prompts),
        "samples_per_prompt": exam.samples_per_prompt,
        "steps": exam.steps,
        "seed": exam.seed,
        "models": [asdict(found) for found in report.results],
        "differences": [asdict(found) | {"word": found.word} for found in report.differences],
        "published": benchmark.published,
        "source": benchmark.source,
        "licence": benchmark.licence,
        "command": report.command,
        "versions": versions(),
        "device": report.device,
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def last_line(report: Report) -> str:
    """One JSON object: the metric's means, and how the checkpoints compare."""
    facts = summary(report)
    means = {found.name: found.mean for found in report.results}
    return json.dumps(
        {key: facts[key] for key in ("benchmark", "metric", "prompts")}
        | {"out": str(report.folder), "means": means, "differences": facts["differences"]}
    )


def write_summary(report: Report) -> None:
    write_json(report.folder / "summary.json", summary(report), indent=1)


def markdown(report: Report) -> str:
    """All figures by model, and the tests in words."""
    rows = [["figure", *(found.name for found in report.results)]]
    rows += [[name, *(figure(report, found.figures, name) for found in report.results)] for name in figure_names(report)]
    return "\n".join([markdown_table(rows), "", *(f"- {sentence(report, found)}" for found in report.differences)])


def figure_names(report: Report) -> list[str]:
    return list(dict.fromkeys(name for found in report.results for name in found.figures))


def figure(report: Report, figures: Figures, name: str) -> str:
    """A dash where there is none, because a reward failed on all of its samples, or nobody published it."""
    return number(figures[name], report.rate) if name in figures else NONE


def sentence(report: Report, found: Difference) -> str:
    return f"{found.checkpoint} against {report.results[0].name} in {found.reward}: {found.word}, {evidence(report, found)}"


def evidence(report: Report, found: Difference) -> str:
    low, high = (signed(end, report.rate) for end in found.ci95)
    return (
        f"{signed(found.mean, report.rate)} (95 % interval {low} to {high}), p = {found.p:.4f}; "
        f"of {found.prompts} prompts {found.better} are better and {found.worse} worse"
    )
