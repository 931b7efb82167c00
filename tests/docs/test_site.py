"""What `make docs` adds to the pages, and its check of the result."""

import json
from pathlib import Path

import site_hooks

ROOT = Path(__file__).parents[2]


def test_a_page_that_loads_from_another_host_or_a_missing_file_is_named(tmp_path):
    (tmp_path / "there.png").write_bytes(b"")
    (tmp_path / "a.html").write_text(
        "<a href='https://example.com'>a link is not loaded</a><img src=there.png><img src=missing.png>"
        "<script src='//example.com/x.js'></script><link rel=canonical href='https://example.com'>"
    )
    assert site_hooks.site_complaints(tmp_path) == [
        "a.html loads missing.png, which is not there",
        "a.html loads //example.com/x.js from another host",
    ]


def test_a_method_is_shown_with_its_own_rows_and_their_command():
    text = site_hooks.measured("mix_grpo")
    assert "flowgrpo study" in text and "| `mix_grpo` |" in text and "mix_grpo_flash` |" not in text


def test_what_is_not_measured_is_said():
    assert site_hooks.measured("ddpo").startswith("Nothing is measured")


def test_links_of_the_repository_lead_to_the_site():
    links = {
        "](../../assets/quickstart.webp)": "](../assets/quickstart.webp)",
        "](../../CONTRIBUTING.md)": "](../contributing.md)",
        "](docs/howto/recipes.md#a-file)": "](../howto/recipes.md#a-file)",
        "](../notebooks/tutorial.ipynb)": "](../notebooks/tutorial.md)",
        "](https://arxiv.org/abs/2505.05470)": "](https://arxiv.org/abs/2505.05470)",
    }
    assert {link: site_hooks.with_site_links(link, "howto") for link in links} == links


def test_a_notebook_becomes_a_page_with_what_it_prints():
    notebook = ROOT / "docs" / "notebooks" / "tutorial.ipynb"
    text = site_hooks.notebook_text(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
    assert text.startswith("# ") and "```python\nimport flowgrpo as fg\n```" in text and "<iframe" in text
