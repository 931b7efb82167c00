"""What `flowgrpo methods` says of every method and rule, and that the documentation says the same."""

import json

import pytest

import flowgrpo as fg
import site_reference
from flowgrpo.cli.main import main
from flowgrpo.config.methods import methods
from flowgrpo.config.recipes import METHODS, RULES, shipped
from flowgrpo.core.errors import UserError

ALL = {method.name: method for method in methods()}


def test_it_lists_every_method_and_rule_with_its_source_and_whose_formula_it_is():
    assert [*ALL] == [*shipped(METHODS), *shipped(RULES)]
    for method in ALL.values():
        assert method.formula in ("code", "paper", "reconstructed", "own") and method.source, method.name
        assert method.summary and method.trains and method.sets, method.name
        assert (method.source == "this project") == (method.formula == "own"), method.name


def test_what_a_part_can_not_do_without_is_found_out_and_not_written_down():
    assert not [name for name, method in ALL.items() if {"ids", "latents"} <= {*method.needs}]
    needs = {name: ALL[name].needs for name in ("gspo", "tempo", "mdpo", "tempflow_grpo", "flow_dppo", "pref_grpo", "sapo")}
    assert needs == {
        "gspo": ("ids",),
        "tempo": ("forks",),
        "mdpo": ("ids", "values of states on the way", "the model before training"),
        "tempflow_grpo": ("latents",),
        "flow_dppo": ("predictions of the rollout",),
        "pref_grpo": ("latents", "reward win_rate", "predictions of the rollout"),
        "sapo": (),
    }


def test_slots_name_what_a_file_and_its_bases_choose():
    assert ALL["rloo"].slots == {"baseline": "others", "std": "none", "surrogate": "reinforce"}
    assert ALL["d3s"].slots == {"selection": "most_varied, largest"}
    assert ALL["branch_grpo_mix"].slots["kernel"] == "dance_sde" and "selection" not in ALL["branch_grpo_mix"].slots


@pytest.mark.parametrize("kind", ["method", "rule"])
def test_the_table_in_the_documentation_has_the_same_rows(kind):
    lines = site_reference.INSERTS[f"{kind}s"]().splitlines()[2:]
    named = [method for method in ALL.values() if method.kind == kind]
    assert len(lines) == len(named)
    for line, method in zip(lines, named, strict=True):
        cells = [cell.strip() for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]
        assert f"`{method.name}`" in cells[0] and cells[1] == method.summary
        assert cells[-3] == (", ".join(method.needs) or "nothing") and method.source in cells[-2] and cells[-1] == method.formula
        assert kind == "rule" or all(f"{slot} `{choice}`" in cells[2] for slot, choice in method.slots.items())


def test_the_command_and_python_say_the_same(capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [method.name for method in fg.methods()]
    assert main(["methods", "sapo"]) == 0
    assert "surrogate sigmoid" in capsys.readouterr().out


def test_a_name_of_neither_is_one_sentence(capsys):
    with pytest.raises(UserError, match=r"no method or rule 'sapi' \(did you mean 'sapo'"):
        methods("sapi")
    assert main(["methods", "sapi"]) == 2 and capsys.readouterr().err.startswith("flowgrpo: no method or rule 'sapi'")
