"""What the rewards of text share: which part of a completion is judged, and what a prompt row must hold."""

from typing import Any

from flowgrpo.core.errors import UserError


def answer(text: str) -> str:
    """The last `<answer>...</answer>` block, or all of the text where there is none."""
    block = answer_block(text)
    return (text if block is None else block).strip()


def answer_block(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return None if start < 0 else text[start + len("<answer>") : end]


def stated(row: dict[str, Any], key: str, what: str) -> Any:
    """`row[key]`, or the sentence that says what it should be."""
    if key not in row:
        raise bad_row(row, key, what)
    return row[key]


def bad_row(row: dict[str, Any], key: str, what: str) -> UserError:
    return UserError(f"the prompt row {str(row)[:200]} must hold '{key}': {what}")
