"""The rooms of the package stand in an order, and imports go down."""

from pathlib import Path

from rooms import arrows, knotted

ROOT = Path(__file__).parents[2]
ORDER = [
    "core",
    "data",
    "pages",
    "sampling",
    "objective",
    "policies",
    "config",
    "scoring",
    "runs",
    "evaluation",
    "training",
    "api",
    "cli",
]


def test_no_room_imports_upwards():
    rooms = arrows(ROOT)
    upwards = [(a, b) for a in ORDER for b in rooms[a] if b in ORDER and ORDER.index(b) > ORDER.index(a)]
    assert not upwards
    assert not knotted(rooms)


def test_the_core_names_no_plug_in():
    rooms = arrows(ROOT)
    plug_ins = {"rewards", "eval", "assets", "configs"}
    assert not [(room, rooms[room] & plug_ins) for room in ORDER if rooms[room] & plug_ins]


def test_the_package_is_thirteen_rooms():
    assert sorted(arrows(ROOT).keys() - {"rewards", "eval", "assets", "configs", "__main__"}) == sorted(ORDER)
    assert sorted(path.name for path in (ROOT / "flowgrpo").glob("*.py")) == ["__init__.py", "__main__.py"]


def test_a_circle_is_seen(tmp_path):
    texts = {
        "a/x.py": "from flowgrpo.b.y import q",
        "b/y.py": "def f():\n    import flowgrpo.a.x",
        "c/z.py": "from flowgrpo.a import x",
    }
    for name, text in texts.items():
        file = tmp_path / "flowgrpo" / name
        file.parent.mkdir(parents=True)
        file.write_text(text + "\n")
        file.with_name("__init__.py").write_text("")
    assert arrows(tmp_path) == {"a": {"b"}, "b": {"a"}, "c": {"a"}}
    assert knotted(arrows(tmp_path)) == [{"a", "b"}]
