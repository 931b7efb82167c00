"""A page inside another."""

import html
import re

from markupsafe import Markup

from flowgrpo.pages.page import Page, framed


def test_a_frame_holds_the_page_itself():
    page = Markup("<p class='x'>1 &lt; 2</p>")
    for frame in (framed(page), Page("a title", page)._repr_html_()):
        held = html.unescape(re.search(r'srcdoc="(.*?)"', frame, re.DOTALL)[1])
        assert page in held
