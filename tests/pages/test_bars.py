"""Bars with intervals, as one SVG."""

import xml.dom.minidom

from flowgrpo.pages.bars import Bar, Bars, bar_figure


def figure(*bars: Bar) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The bars and the whiskers that are drawn."""
    page = xml.dom.minidom.parseString(bar_figure([Bars("a < b", "size", bars)]))
    rects = [r for r in page.getElementsByTagName("rect") if r.getAttribute("class") == "bar"]
    lines = [line for line in page.getElementsByTagName("line") if line.getAttribute("class") == "whisker"]
    return [dict(r.attributes.items()) for r in rects], [dict(line.attributes.items()) for line in lines]


def test_bars_grow_from_zero_to_either_side():
    (up, down), whiskers = figure(Bar("up", 2.0, (1.0, 3.0), "2"), Bar("down", -1.0, None, "-1"))
    assert len(whiskers) == 1 and float(up["width"]) > 1.9 * float(down["width"])
    assert float(down["x"]) + float(down["width"]) <= float(up["x"]) + 0.2
    assert float(whiskers[0]["x1"]) < float(up["x"]) + float(up["width"]) < float(whiskers[0]["x2"])


def test_an_interval_without_limit_is_cut_off_at_the_frame():
    _, (short, long) = figure(Bar("one", 1.0, (0.5, 1.5), "1"), Bar("two", 1.0, (-float("inf"), float("inf")), "1"))
    assert float(long["x1"]) < float(short["x1"]) < float(short["x2"]) < float(long["x2"])


def test_no_bar_has_a_length():
    (bar,), _ = figure(Bar("nothing", 0.0, (0.0, 0.0), "0"))
    assert float(bar["width"]) == 0.0
