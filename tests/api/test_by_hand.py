"""The example that trains by hand."""

from pathlib import Path

FILE = Path(__file__).parents[2] / "examples" / "by_hand.py"


def test_it_is_short_uses_public_names_only_and_trains(monkeypatch, capsys):
    text = FILE.read_text()
    assert len(text.splitlines()) <= 100 and "from flowgrpo" not in text
    monkeypatch.syspath_prepend(str(FILE.parent))
    import by_hand

    monkeypatch.setattr(by_hand, "PER_UPDATE", 2)
    by_hand.main(2)
    assert capsys.readouterr().out.count("transitions trained") == 2
