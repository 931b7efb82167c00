"""The table of tested pipelines, as `python tests/conformance.py` left it."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("table.json")
COLUMNS = ("start", "predict", "finish", "ratio", "gradient", "lora")


def read() -> list[dict[str, Any]]:
    """Rows: name, kind, pipeline, scheduler, checks by name, error, passed, recorded."""
    rows: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """A row a line, so that changes can be read."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def classes(rows: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Pipeline classes of which an entry passes, and those of which none does."""
    passed = {row["pipeline"] for row in rows if row["passed"]}
    return passed, {row["pipeline"] for row in rows if row["pipeline"]} - passed


def text(rows: list[dict[str, Any]]) -> str:
    """The table as text, kind by kind; what failed has its reason below."""
    lines: list[str] = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        lines += ["", kind, "  ".join((f"{'':<28}", f"{'pipeline':<46}", *(f"{column:<9}" for column in (*COLUMNS, "recorded"))))]
        for row in (row for row in rows if row["kind"] == kind):
            cells = [*(row["checks"].get(column, "-") for column in COLUMNS), row["recorded"] or "-"]
            short = [cell if len(cell) <= 9 else "no" for cell in cells]
            lines.append("  ".join((f"{row['name']:<28}", f"{row['pipeline']:<46}", *(f"{cell:<9}" for cell in short))).rstrip())
            if not row["passed"]:
                lines.append(f"    {reason(row)}")
            elif row["recorded"] != "yes":
                lines.append(f"    not recorded: {row['recorded']}")
    passed, failed = classes(rows)
    recorded = {row["pipeline"] for row in rows if row["passed"] and row["recorded"] == "yes"}
    lines += [
        "",
        f"{len(passed)} pipeline classes pass in {sum(row['passed'] for row in rows)} entries; {len(failed)} do not pass",
        f"{len(recorded)} of those that pass are recorded: a step is done without the pipeline's own code",
    ]
    return "\n".join(lines[1:])


def reason(row: dict[str, Any]) -> str:
    """Why a row did not pass."""
    return row["error"] or next((cell for cell in row["checks"].values() if len(cell) > 9), "a difference is not rounding")
