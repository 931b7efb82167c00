"""How pages write numbers. A `rate` is a share of samples, and written in per cent."""


def number(value: float, rate: bool) -> str:
    return f"{value:.1%}" if rate else f"{value:.3f}"


def signed(change: float, rate: bool) -> str:
    return (f"{change:+.1%}" if rate else f"{change:+.3f}").replace("-", "\N{MINUS SIGN}")


def colour(change: float) -> str:
    """The class of a gain, a loss, or neither."""
    return "good" if change > 0 else "bad" if change < 0 else "open"
