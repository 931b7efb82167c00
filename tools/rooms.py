"""Rooms, arrows and knots of a checkout: `python tools/rooms.py [FOLDER]`.

A room is a folder of the package, or a module at its root; so is each folder that is installed inside it (rewards, eval,
configs, assets). An arrow says that files of one room import from another, a knot is a circle of arrows. Imports are read
from the syntax tree, those for the type checker and those inside functions included.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

INSIDE = ("rewards", "eval", "configs", "assets")
Arrows = dict[str, set[str]]


def files(checkout: Path) -> dict[str, Path]:
    """Python files by the name of their module."""
    found = {}
    for root in (checkout / "flowgrpo", *(checkout / folder for folder in INSIDE)):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(checkout).with_suffix("").parts
            parts = parts if parts[0] == "flowgrpo" else ("flowgrpo", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in below if node.module in modules)


def arrows(checkout: Path) -> Arrows:
    """Rooms, each with those it imports from. The package's own `__init__` is none."""
    modules = files(checkout)
    found: Arrows = {room(module): set() for module in modules if module != "flowgrpo"}
    for module, path in modules.items():
        if module != "flowgrpo":
            found[room(module)] |= {room(name) for name in imported(path, modules) if name != "flowgrpo"} - {room(module)}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def floors(arrows: Arrows) -> list[list[str]]:
    """Rooms from the ground up; a room stands on the floor above the highest that it imports from."""
    sorter, found = TopologicalSorter(arrows), []
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        sorter.done(*ready)
        found.append(ready)
    return found


def knotted(arrows: Arrows) -> list[set[str]]:
    """Sets of rooms that reach one another."""
    reach = {room: _reached(room, arrows) for room in arrows}
    sets = {frozenset(other for other in reach[room] if room in reach[other]) for room in arrows if room in reach[room]}
    return [set(found) for found in sorted(sets, key=sorted)]


def _reached(room: str, arrows: Arrows) -> set[str]:
    found: set[str] = set()
    ahead = [room]
    while ahead:
        fresh = arrows[ahead.pop()] - found
        found |= fresh
        ahead += fresh
    return found


def main() -> int:
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    found = arrows(checkout)
    knots = knotted(found)
    print(f"{len(found)} rooms, {sum(map(len, found.values()))} arrows, {len(knots)} knots")
    for knot in knots:
        print(f"knot: {', '.join(sorted(knot))}")
    for floor, rooms in reversed(list(enumerate(floors(found), 1)) if not knots else []):
        print(f"{floor:2}  {', '.join(rooms)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
