"""What credit is worth, asked from Python."""

from pathlib import Path

from markupsafe import Markup

from flowgrpo.api.load import LoadedPolicy
from flowgrpo.api.train import Recipe, recipe
from flowgrpo.core.errors import UserError
from flowgrpo.pages.page import Page, framed
from flowgrpo.training.credit.measure import Question, measure
from flowgrpo.training.credit.page import markdown, plot, write_credit
from flowgrpo.training.credit.result import Credit
from flowgrpo.training.credit.schemes import Scheme, base


class CreditMeasurement(Credit):
    """To print, or to look at in a notebook: `rows` by scheme, `steps` by step, and the `sentence` that says what to use."""

    def __str__(self) -> str:
        return markdown(self)

    def plot(self) -> Page:
        """Bars with intervals, by scheme and by step."""
        return Page("credit", Markup(plot(self)))

    def save(self, folder: Path | str) -> Path:
        """Write credit.md, credit.json and credit.svg."""
        write_credit(self, Path(folder))
        return Path(folder)

    def _repr_html_(self) -> str:
        return framed(str(self.plot()))


def measure_credit(
    model: str,
    *methods: Recipe | str,
    updates: int | None = None,
    prompts: int | None = None,
    checkpoint: Path | str | None = None,
    reference: str | None = None,
    completions: bool = False,
    reference_updates: int | None = None,
    policy: LoadedPolicy | None = None,
) -> CreditMeasurement:
    """How much of an update's gradient points the right way for what it costs, for each scheme, on fixed weights.

    `methods` are words that make a recipe with the model ("tempflow_grpo", "tempflow_grpo policy.steps=6"), or recipes; none: a
    standard set of schemes. `updates` independent updates of each are made, of at most so many `prompts`, at the model's own
    weights, at those of a run's `checkpoint`, or at those of `policy`. The right way is the mean gradient of all schemes, or of
    the one that `reference` names, with `reference_updates` where these are to be more. With `completions`, cheap completions are
    compared with exact ones besides.

    Errors: UserError where schemes can't be compared, no group has a gradient, or two updates would share prompts.
    """
    schemes = [_scheme(model, method) for method in methods] or [base(model, ())]
    folder = None if checkpoint is None else Path(checkpoint)
    standard = not methods
    question = Question(model, schemes, standard, updates, prompts, folder, reference, completions, reference_updates)
    found = measure(question, policy)
    return CreditMeasurement(**vars(found))


def _scheme(model: str, method: Recipe | str) -> Scheme:
    if isinstance(method, Recipe):
        return Scheme(method.name, method.config)
    if not isinstance(method, str):
        raise UserError(f"a method is a text or a recipe, one argument each, and this is of type {type(method).__name__}")
    return Scheme(method.strip(), recipe(model, method).config)
