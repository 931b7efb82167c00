"""Recipes are sentences: words that name YAML files, merged from left to right, as in `sd3.5-medium mix_grpo ocr`.

A word is a file, or a name in `configs/`: a model, a method, a rule, a task, or a whole recipe such as `quickstart`; `a/b` is
another spelling of the words a and b. A rule changes how a method turns rewards into a loss, and goes with many methods. A
sentence that names no rewards ends with its model's own task. The `base:` of a file is said before the file: a name or several,
where a name `a/b` alone is a whole recipe, with its model's own task. A file that has been said already is not said again, and a
task takes the place of the rewards before it. The rewards of a rule only measure what it has to know, and stay.

Beside the sections of a run a file may hold

    with:   sections by words, which count if all the words of their key are said; a comma separates alternatives
    task:   the task that is trained when a sentence names none: a model's own, or one with what a method needs
    about:  facts about the file, `About`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from flowgrpo.config.tree import merge, parse_yaml, with_overrides, without, yaml_says
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import configs
from flowgrpo.core.plugins import meant
from flowgrpo.core.plugins import shipped as shipped_components
from flowgrpo.core.section import KeyPath, Section, checked, complaint, first_error
from flowgrpo.data.kinds import Kind

MODELS, METHODS, RULES, TASKS = FOLDERS = ("models", "methods", "rules", "tasks")
POLICIES = "flowgrpo.policies"
Words = str | Sequence[str]
HELP = "a YAML file, or MODEL METHOD [RULE] TASK as `flowgrpo recipes` lists them, or several files and names, merged in turn"
Tree = dict[str, Any]
S = TypeVar("S", bound=Section)


class About(Section):
    """What `flowgrpo recipes` says of a file, and what must fit together in a sentence.

    A model `makes` one kind of samples, a task `judges` some; a model `takes` columns of prompt rows to work from, such as
    `image`, and a task `needs` some; a task may judge the `latents` of one model only, and that model, and its kin, have the same
    word there. A method or rule trains policies of some types (`policies`), and a method may be about a `reward`. Its `formula`
    is that of public code or of the paper, reconstructed where neither says all of it, or this project's own; `source` is where
    it was published, if that is not the paper whose arXiv number the summary has. `licence`
    and `downloads` are of weights and data. A rehearsal makes the model by the builder `tiny`, and its prompts of `rows`, which
    look like those of the task's own source.
    """

    summary: str = ""
    licence: str = ""
    downloads: tuple[str, ...] = ()
    makes: Kind | None = None
    takes: tuple[str, ...] = ()
    judges: tuple[Kind, ...] = ()
    needs: tuple[str, ...] = ()
    latents: str | None = None
    policies: tuple[str, ...] = ()
    reward: str | None = None
    formula: Literal["code", "paper", "reconstructed", "own"] | None = None
    source: str = ""
    tiny: str | None = None
    rows: tuple[dict[str, Any], ...] = ()


class Layer(NamedTuple):
    """Sections, and the file that has them."""

    path: Path
    sections: Tree


@dataclass
class _Sentence:
    """The files that have been said so far, in order, and what they hold."""

    said: dict[Path, Tree] = field(default_factory=dict)

    def say(self, path: Path, above: tuple[Path, ...] = ()) -> None:
        """A file, after its bases. `above` are the files that it is a base of."""
        if any(path.samefile(other) for other in above):
            names = " -> ".join(file.name for file in (*above, path))
            raise UserError(f"{path}: it is a base of itself ({names}); take the `base:` out of one of them")
        if any(path.samefile(other) for other in self.said):
            return
        tree = _read(path)
        bases = _bases(path, tree)
        for base in bases:
            for file in _beside(path, base):
                self.say(file, (*above, path))
        if len(bases) == 1 and "/" in bases[0]:
            self.complete()
        self.said[path] = tree

    def complete(self) -> None:
        """Say the model's own task, unless there are rewards."""
        layers = self.layers()
        tasks = [(layer.path, layer.sections["task"]) for layer in layers if "task" in layer.sections]
        if tasks and not any(_judged(layer) for layer in layers):
            path, name = tasks[-1]
            if not isinstance(name, str):
                raise UserError(f"{path}: task: must be the name of a task, not {name}")
            for file in _beside(path, name):
                self.say(file)

    def layers(self) -> list[Layer]:
        """The files' sections, and those of `with` after the first of their words, or after their own file if that is later; what
        a model says of a word comes after what the word says itself."""
        layers: list[Layer] = []
        order = [path.stem for path in self.said]
        speakers = sorted(enumerate(self.said.items()), key=lambda said: said[1][0].parent == configs() / MODELS)
        for i, (path, tree) in enumerate(self.said.items()):
            if path.parent == configs() / TASKS:
                layers = [Layer(layer.path, without(layer.sections, *["rewards"] * _judged(layer))) for layer in layers]
            layers.append(Layer(path, without(tree, "base", "with", "about")))
            for at, (file, held) in speakers:
                layers += [Layer(file, sections) for words, sections in _with(file, held) if _due(words, order, at) == i]
        return layers

    def recipe(self, words: list[str]) -> "Recipe":
        for path, tree in self.said.items():
            self._check_words(path, [word for said, _ in _with(path, tree) for word in said])
        about = {path: checked(About, tree.get("about") or {}, f"{path}: about") for path, tree in self.said.items()}
        return Recipe(words, self.layers(), about)

    def _check_words(self, path: Path, words: list[str]) -> None:
        """A word of `with` that nothing is named would never be said."""
        known = {*names(), *(file.stem for file in self.said)}
        for word in words:
            if word not in known and not path.with_name(f"{word}.yaml").is_file():
                raise UserError(
                    f"{path}: with: nothing is named '{word}' ({meant(word, known)}`flowgrpo recipes` lists the words)"
                )


def _judged(layer: Layer) -> bool:
    """Whether it has the rewards of a task; those of a rule only measure what the rule has to know."""
    return "rewards" in layer.sections and layer.path.parent != configs() / RULES


def _due(words: list[str], order: list[str], at: int) -> int | None:
    """After which file of a sentence the sections for these words come, which file `at` holds; None: not all are said."""
    return max(at, order.index(words[0])) if {*words} <= {*order} else None


@dataclass(frozen=True)
class Recipe:
    """A sentence: its words, the sections in the order of merging, and what each file says about itself."""

    words: list[str]
    layers: list[Layer]
    about: dict[Path, About]

    @property
    def tree(self) -> Tree:
        """The sections, merged and unchecked."""
        tree: Tree = {}
        for layer in self.layers:
            tree = merge(tree, layer.sections)
        return without(tree, "task")

    def checked(self, section: type[S], overrides: Sequence[str]) -> S:
        """With the `a.b=c` overrides. An error in a file that is not named in the sentence names the file."""
        tree = with_overrides(self.tree, overrides)
        if unfit := self.complaint(tree):
            raise UserError(f"{' '.join(self.words)}: {unfit}")
        try:
            return section.model_validate(tree)
        except ValidationError as error:
            where, message, key = first_error(error)
            raise UserError(complaint(self._of((*where, *key), overrides), where, message)) from error

    def _of(self, where: KeyPath, overrides: Sequence[str]) -> str:
        """Who has this dotted."""
        words, dotted = " ".join(self.words), ".".join(map(str, where)) + "."
        changed = [override.partition("=")[0] + "." for override in overrides]
        if not where or any(dotted.startswith(one) or one.startswith(dotted) for one in changed):
            return words
        path = next((layer.path for layer in reversed(self.layers) if _holds(layer.sections, where)), None)
        if path is None or (len(self.words) == 1 and [path] == _named(self.words[0])):
            return words
        return f"{path}, a {'part' if len(self.words) > 1 else 'base'} of {words}"

    def complaint(self, tree: Tree) -> str | None:
        """Why its words can't stand together, in this tree; None if they can."""
        shipped_only = {path.parent.name for path in self.about} <= {*FOLDERS}
        if shipped_only and not {"policy", "optimizer"} <= tree.keys():
            model = self.words[0] if "policy" in tree else "sd3.5-medium"
            return f"a model and a method make a recipe, such as `{model} flow_grpo`; `flowgrpo recipes` lists them"
        for folder in (MODELS, METHODS, RULES):
            if len(apart := self._apart(folder)) > 1:
                two = f"'{apart[0]}' and '{apart[1]}' are two {folder}"
                return f"{two}; say one, or write what you want of both into a file of yours"
        kinds = [about.makes for about in self.about.values() if about.makes]
        latents = {about.latents for about in self.about.values() if about.makes}
        policy = _type_of(tree.get("policy"))
        for path, about in self.about.items():
            if kinds and about.judges and kinds[-1] not in about.judges:
                return f"task '{path.stem}' judges {' or '.join(about.judges)}, and the model makes {kinds[-1]}"
            if kinds and (missing := {*about.needs} - {name for other in self.about.values() for name in other.takes}):
                return f"task '{path.stem}' needs a model that works from an {min(missing)}, and this one does not"
            if kinds and about.latents and about.latents not in latents:
                return f"task '{path.stem}' judges the latents of {about.latents}, and the model makes others"
            if about.policies and policy not in about.policies and policy in shipped_components(POLICIES):
                what = f"{path.parent.name.removesuffix('s')} '{path.stem}'"
                return f"{what} trains policies of type {' or '.join(about.policies)}, not '{policy}' as the model's"
            if about.reward and "rewards" in tree and f"'{about.reward}" not in str(tree["rewards"]):
                return f"method '{path.stem}' is about the reward {about.reward}, which no reward of the task is"
        return None

    def _apart(self, folder: str) -> list[str]:
        """The words that name something in a folder of `configs/`, but for those that another is based on."""
        said = [name for word in self.words if not Path(word).is_file() for name in word.split("/") if name in shipped(folder)]
        based = {path.stem for name in said for path in _said([name]).said if path.stem != name}
        return [name for name in dict.fromkeys(said) if name not in based]


def _type_of(component: Any) -> str:
    """What a component is named; nothing where it has no name."""
    return component if isinstance(component, str) else str(component.get("type", "")) if isinstance(component, dict) else ""


def read_recipe(source: Words) -> Recipe:
    """A sentence, said to its end. Errors: UserError where a word names nothing, or a file is none."""
    words = words_of(source)
    sentence = _said(words)
    if len(sentence.said) > 1:
        sentence.complete()
    return sentence.recipe(words)


def _said(words: list[str]) -> _Sentence:
    sentence = _Sentence()
    for word in words:
        for path in _named(word):
            sentence.say(path)
    return sentence


def fitting(model: str, folder: str) -> list[str]:
    """The methods, rules or tasks that can stand beside a model in a sentence."""
    return [name for name in (tasks() if folder == TASKS else shipped(folder)) if _fits(model, name)]


def _fits(*words: str) -> bool:
    recipe = _said(list(words)).recipe(list(words))
    return recipe.complaint({"optimizer": None, **recipe.tree}) is None


def models() -> list[str]:
    """Those that are more than a base of others."""
    return [name for name in shipped(MODELS) if "model" in _alone(name).tree.get("policy", {})]


def tasks() -> list[str]:
    """Those that are more than a base of others."""
    return [name for name in shipped(TASKS) if "rewards" in _alone(name).tree]


def facts(name: str) -> About:
    """What a shipped file says about itself, and its bases where it says nothing."""
    said = [about.model_dump(exclude_defaults=True) for about in _alone(name).about.values()]
    return About.model_validate({key: value for one in said for key, value in one.items()})


def _alone(name: str) -> Recipe:
    return _said([name]).recipe([name])


def words_of(source: Words) -> list[str]:
    """A text is the name of a file, or words with blanks between them."""
    if isinstance(source, str):
        return [source] if Path(source).expanduser().is_file() else source.split()
    return list(source)


def name_of(source: Words) -> str:
    """What the runs of a sentence are called."""
    return "-".join(Path(word).stem if Path(word).is_file() else word.replace("/", "-") for word in words_of(source))


@cache
def shipped(folder: str = "") -> dict[str, Path]:
    """What a folder of `configs/` holds, by name; at its root, whole recipes."""
    return {path.stem: path for path in sorted((configs() / folder).glob("*.yaml"))}


@cache
def names() -> dict[str, Path]:
    """All that ships, by name."""
    return {name: path for folder in (*FOLDERS, "") for name, path in shipped(folder).items()}


def _named(word: str) -> list[Path]:
    """A file, or what the names of a word stand for."""
    path = Path(word).expanduser()
    if path.is_file():
        return [path]
    known, said = names(), word.removeprefix("configs/").removesuffix(".yaml").split("/")
    if unknown := next((name for name in said if name not in known), None):
        whole = f" of '{word}'" if len(said) > 1 else ""
        hint = f"{meant(unknown, known)}`flowgrpo recipes` lists them"
        raise UserError(f"no config file or shipped recipe '{unknown}'{whole} ({hint})")
    return [known[name] for name in said]


def _beside(path: Path, base: str) -> list[Path]:
    """What the file `path` means by a base: a file beside it, with or without its suffix, or what a word names."""
    beside = [path.parent / f"{base}{suffix}" for suffix in ("", ".yaml", ".yml")]
    others = (file for file in beside if file.is_file() and (file == beside[0] or not file.samefile(path)))
    if neighbour := next(others, None):
        return [neighbour]
    try:
        return _named(base)
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from error


def _read(path: Path) -> Tree:
    """A file as it stands; what ships is read once."""
    return _own(path) if path in names().values() else _parsed(path)


@cache
def _own(path: Path) -> Tree:
    return _parsed(path)


def _parsed(path: Path) -> Tree:
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({yaml_says(error)})") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping of sections")
    return tree


def _bases(path: Path, tree: Tree) -> list[str]:
    base = tree.get("base")
    bases = [] if base is None else base if isinstance(base, list) else [base]
    if wrong := next((name for name in bases if not isinstance(name, str)), None):
        raise UserError(f"{path}: base: must be names of files or shipped recipes, not {wrong}")
    return bases


def _with(path: Path, tree: Tree) -> list[tuple[list[str], Tree]]:
    """The sections of `with`, and for which words they are."""
    conditional = tree.get("with") or {}
    if not isinstance(conditional, dict) or not all(
        isinstance(key, str) and isinstance(value, dict) for key, value in conditional.items()
    ):
        raise UserError(f"{path}: with: must be sections by words, such as {{flow_grpo: {{objective: {{clip: 1e-4}}}}}}")
    return [(words.split(), sections) for key, sections in conditional.items() for words in key.split(",")]


def _holds(tree: Any, where: KeyPath) -> bool:
    """To the end of the place, or to a value that can't be gone into."""
    if not where or not isinstance(tree, dict):
        return True
    return where[0] in tree and _holds(tree[where[0]], where[1:])
