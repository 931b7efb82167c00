"""How pages write numbers and scores. A `rate` is a share of samples, and written in per cent."""

import html


def number(value: float, rate: bool) -> str:
    return f"{value:.1%}" if rate else f"{value:.3f}"


def signed(change: float, rate: bool) -> str:
    return (f"{change:+.1%}" if rate else f"{change:+.3f}").replace("-", "\N{MINUS SIGN}")


def colour(change: float) -> str:
    """The class of a gain, a loss, or neither."""
    return "good" if change > 0 else "bad" if change < 0 else "open"


def score_mark(label: str, value: float) -> str:
    """A tick or a cross where the score is 1 or 0, else the score."""
    label = html.escape(label)
    if value in (0, 1):
        mark, kind, words = ("&#10003;", "good", "met") if value else ("&#10007;", "bad", "missed")
        return f"<span class='score {kind}' title='{label} {words}'>{mark} {label}</span>"
    return f"<span class=score>{value:.2f} {label}</span>"
