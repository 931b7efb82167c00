"""The benchmarks that ship: as many prompts as they say, of the right form, the same for everybody; and official files."""

import json
from collections import Counter
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from safetensors.torch import save_file
from torchvision.models import get_model

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import built_in_names
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.prompts import geneval as grammar
from flowgrpo.data.prompts import ocr as signs
from flowgrpo.data.prompts import sudoku as grids
from flowgrpo.data.prompts._rows import distinct
from flowgrpo.eval import countdown, geneval, gsm8k, math500, ocr, sudoku
from flowgrpo.evaluation.benchmarks.catalogue import find_benchmark, measuring, name_of
from flowgrpo.evaluation.pins import fingerprint
from flowgrpo.rewards.objects import Row
from flowgrpo.scoring.chosen import chosen_rewards
from flowgrpo.scoring.exemplars import photos, samples
from flowgrpo.scoring.scorer import Scorer, find_reward

OWN = {"mini_scenes": 300, "mini_countdown": 500, "countdown": 512, "sudoku": 256, "geneval": 553, "ocr": 320}
"""Benchmarks whose prompts come with flowgrpo."""


def figures_of_zeros(name: str, prompts: list[Prompt]) -> dict[str, float]:
    benchmark = find_benchmark(name)
    return benchmark.figures(prompts, {label: np.zeros(len(prompts)) for label in benchmark.rewards})


@pytest.mark.parametrize("name", sorted(OWN))
def test_own_prompts_are_as_many_as_stated_and_differ(name):
    prompts = find_benchmark(name).load(None)
    assert len(prompts) == OWN[name] == len({prompt.text for prompt in prompts})
    assert [prompt.index for prompt in prompts] == list(range(len(prompts)))
    assert all(prompt.metadata["prompt"] == prompt.text for prompt in prompts)
    assert set(figures_of_zeros(name, prompts).values()) == {0.0}


@pytest.mark.parametrize(
    "name, digest",
    [
        ("countdown", "b706727d00fc27d2"),
        ("sudoku", "ad64cb07308e8788"),
        ("geneval", "d95dcaf56f0e0767"),
        ("ocr", "13297516ebfd2dd6"),
    ],
)
def test_generated_prompts_are_the_same_for_everybody(name, digest):
    assert fingerprint(find_benchmark(name).load(None))[:16] == digest


@pytest.mark.parametrize("name", built_in_names("flowgrpo.eval"))
def test_every_benchmark_that_ships_has_rewards_that_exist(name):
    benchmark = find_benchmark(name)
    for reward in benchmark.rewards.values():
        assert find_reward(reward.use)[0]
    assert benchmark.metric in benchmark.rewards and benchmark.samples_per_prompt >= 1 and benchmark.licence


def test_names_under_which_results_are_filed():
    names = ["geneval", "own/bench.py:benchmark", "own/bench.py:hard", "package.module:benchmark"]
    assert [name_of(name) for name in names] == ["geneval", "bench", "bench-hard", "package.module"]


def reachable(numbers: list[int]) -> set[Fraction]:
    """All values of expressions over all of the numbers."""
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    found = set()
    for size in range(1, len(numbers)):
        for order in permutations(numbers):
            for a, b in product(reachable(list(order[:size])), reachable(list(order[size:]))):
                found |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return found


def test_countdown_problems_can_be_solved():
    problems = [prompt.metadata for prompt in countdown.benchmark.load(None)]
    assert Counter(problem["size"] for problem in problems) == {3: 256, 4: 256}
    assert all(len(p["numbers"]) == p["size"] and 1 <= p["target"] < 1000 for p in problems)
    assert all(problem["target"] in reachable(problem["numbers"]) for problem in problems[:256:8])
    scorer = Scorer(countdown.benchmark.rewards)
    right = [{"numbers": [1, 98, 82], "target": 17}]
    assert scorer(samples(["<answer>98 - 82 + 1</answer>"], right)) == {"strict": [1.0], "valid": [1.0]}


def test_sudoku_puzzles_are_of_grids_that_are_kept_for_them():
    puzzles = [prompt.metadata for prompt in sudoku.benchmark.load(None)]
    assert Counter(puzzle["puzzle"].count("0") for puzzle in puzzles) == dict.fromkeys(grids.BLANKS, 64)
    for puzzle in puzzles:
        assert puzzle["blanks"] == puzzle["puzzle"].count("0")
        assert any(all(p in ("0", g) for p, g in zip(puzzle["puzzle"], grid, strict=True)) for grid in grids.HELD_OUT)
    assert "\n2104\n3421\n" in grids.prompt("2104342113424000")


def test_geneval_prompts_are_of_the_official_grammar():
    rows = [prompt.metadata for prompt in geneval.benchmark.load(None)]
    assert Counter(row["tag"] for row in rows) == geneval.COUNTS and len(grammar.CLASSES) == len(set(grammar.CLASSES)) == 80
    for row in rows:
        assert row["prompt"] == f"a photo of {grammar.caption(row['include'])}"
        assert Row.read({key: row[key] for key in ("tag", "include", "exclude") if key in row})
        assert not any(item["class"] == "person" and "color" in item for item in row["include"])
    counted = [row for row in rows if row["tag"] == "counting"]
    assert all(row["exclude"] == [{"class": i["class"], "count": i["count"] + 1}] for row in counted for i in row["include"])
    assert {row["include"][0]["count"] for row in counted} == {2, 3, 4}


def test_geneval_phrases():
    orange = {"class": "orange", "count": 1}
    assert grammar.caption([orange]) == "an orange"
    assert grammar.caption([{**orange, "color": "orange"}, {"class": "bus", "count": 1, "color": "red"}]) == (
        "an orange orange and a red bus"
    )
    assert grammar.caption([{"class": "bus", "count": 3}]) == "three buses"
    assert grammar.caption([orange, {"class": "dog", "count": 1, "position": ["left of", 0]}]) == "a dog left of an orange"


def test_geneval_figures_are_means_of_task_types_as_in_the_official_script():
    tags = ["single_object", "single_object", "single_object", "counting"]
    prompts = [Prompt(i, "", {"tag": tag}) for i, tag in enumerate(tags)]
    figures = geneval.figures(prompts, {"correct": np.array([1.0, 1.0, 0.0, 0.0])})
    assert figures == pytest.approx({"overall": 1 / 3, "single_object": 2 / 3, "counting": 0.0})
    for published in geneval.benchmark.published.values():
        overall, *tasks = published.values()
        assert overall == pytest.approx(np.mean(tasks), abs=0.011) and list(published) == ["overall", *geneval.COUNTS]


def test_the_official_file_of_geneval_is_checked(tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    rows = [row for tag, count in geneval.COUNTS.items() for row in geneval.generated(tag, count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [prompt.metadata for prompt in geneval.benchmark.load(file)] == rows
    file.write_text("".join(json.dumps({**row, "tag": "colors"}) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"has the task types \{'colors': 553\} instead of"):
        geneval.benchmark.load(file)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    with pytest.raises(UserError, match="552 prompts instead of 553"):
        geneval.benchmark.load(file)
    file.write_text('{"tag": "colors", "prompt": "a photo of a red car"}\n')
    with pytest.raises(UserError, match="line 1: must be an object with tag, include, prompt"):
        geneval.benchmark.load(file)


def test_gsm8k_is_read_in_its_official_form(tmp_path):
    file = tmp_path / "test.jsonl"
    rows = [
        {"question": "How many eggs?", "answer": "16-3=<<16-3=13>>13 eggs.\n#### 1,300"},
        {"question": "How old?", "answer": "#### 72"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = gsm8k.load(file, count=2)
    assert [prompt.metadata["answer"] for prompt in prompts] == ["1,300", "72"]
    assert prompts[0].text.startswith("How many eggs?\n\n") and "\\boxed{}" in prompts[0].text
    scores = Scorer(gsm8k.benchmark.rewards)(samples(["so \\boxed{1300}", "it is 71"], [p.metadata for p in prompts]))
    assert gsm8k.figures(prompts, scores) == {"accuracy": 0.5}
    with pytest.raises(UserError, match="2 prompts instead of 1319"):
        gsm8k.benchmark.load(file)
    with pytest.raises(UserError, match=r"1319 official prompts do not ship with flowgrpo; get .*test\.jsonl from"):
        gsm8k.benchmark.load(None)
    file.write_text('{"question": "How old?", "answer": "72"}\n')
    with pytest.raises(UserError, match="problem 1 of GSM8K has no answer after '####'"):
        gsm8k.load(file, count=1)


def test_math500_is_read_in_its_official_form(tmp_path):
    file = tmp_path / "test.jsonl"
    rows = [
        {"problem": "Half?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 5, "unique_id": "test/algebra/1.json"},
        {"problem": "Two?", "answer": "2", "subject": "Geometry", "level": 1, "solution": "two"},
        {"problem": "Three?", "answer": "3", "subject": "Algebra", "level": 1},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = math500.load(file, count=3)
    scores = Scorer(math500.benchmark.rewards)(samples(["\\boxed{0.5}", "\\boxed{3}", "3"], [p.metadata for p in prompts]))
    assert list(math500.figures(prompts, scores).items()) == [
        ("accuracy", pytest.approx(2 / 3)),
        ("accuracy/level 1", 0.5),
        ("accuracy/level 5", 1.0),
        ("accuracy/Algebra", 1.0),
        ("accuracy/Geometry", 0.0),
    ]
    with pytest.raises(UserError, match="3 prompts instead of 500"):
        math500.benchmark.load(file)
    file.write_text('{"problem": "Half?", "answer": "1/2"}\n')
    with pytest.raises(UserError, match="line 1: must be an object with problem, answer, subject, level"):
        math500.load(file, count=1)
    file.write_text("problem,answer\n")
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        math500.load(file, count=1)


def test_text_to_render_stands_in_quotes(tmp_path):
    prompts = ocr.benchmark.load(None)
    assert Counter(prompt.metadata["length"] for prompt in prompts) == {**dict.fromkeys(signs.LENGTHS, 64), "number": 64}
    for prompt in prompts:
        text, length = prompt.metadata["text"], prompt.metadata["length"]
        assert f'"{text}"' in prompt.text and prompt.text.count('"') == 2
        assert text.isdigit() if length == "number" else len(text.split()) == signs.LENGTHS[length]
    file = tmp_path / "test.txt"
    file.write_text('A watch, its screen displaying "Step Goal Achieved" at dusk.\n\nA mug that says "Hi".\n')
    official = ocr.benchmark.load(file)
    assert [(p.metadata["text"], p.metadata["length"]) for p in official] == [("Step Goal Achieved", "3 words"), ("Hi", "1 word")]
    figures = ocr.figures(official, {"ocr": np.array([1.0, 0.5])})
    assert figures == {"ocr": 0.75, "exact": 0.5, "ocr/3 words": 1.0, "ocr/1 word": 0.5}
    file.write_text('A mug that says "".\n')
    with pytest.raises(UserError, match="prompt 1: no text stands in double quotes"):
        ocr.benchmark.load(file)


def test_distinct_rows_are_drawn_until_there_are_enough():
    draws = iter([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 3}])
    assert distinct(lambda: next(draws), 3) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_rewards_that_are_named_besides_join_the_figures_and_take_arguments():
    found = measuring(find_benchmark("mini_scenes"), chosen_rewards("ocr,text:Length"), ["text:Length.target=3"])
    assert found.rewards["text:Length"].arguments == {"target": 3} and "strict" in found.rewards
    asked = found.load(None)[:2]
    scores = {label: np.array([0.0, 1.0]) for label in found.rewards}
    assert found.figures(asked, scores)["ocr"] == 0.5 and found.figures(asked, scores)["strict"] == 0.5
    with pytest.raises(UserError, match="measures 'strict' already"):
        measuring(find_benchmark("mini_scenes"), {"strict": found.rewards["soft"]}, [])


def test_one_setting_reaches_all_questions_of_a_judge():
    found = measuring(find_benchmark("dpg_bench"), chosen_rewards("ocr"), ["*.url=http://judge/v1"])
    judged = [reward.arguments for label, reward in found.rewards.items() if label != "ocr"]
    assert len(judged) == 6 and all(arguments["url"] == "http://judge/v1" for arguments in judged)
    assert found.rewards["ocr"].arguments == {}
    with pytest.raises(UserError, match=r"'\*.weights=x' must look like rewards.LABEL"):
        measuring(find_benchmark("dpg_bench"), {}, ["*.weights=x"])


def test_the_detector_of_geneval_knows_every_class_that_its_prompts_ask_for(tmp_path):
    """A real detector of torchvision with random weights."""
    model = "ssdlite320_mobilenet_v3_large"
    network = get_model(model, weights=None, weights_backbone=None, num_classes=91)
    save_file(network.state_dict(), tmp_path / "random.safetensors")
    found = measuring(
        find_benchmark("geneval"), {}, [f"correct.arguments={{model: {model}, weights: {tmp_path}/random.safetensors}}"]
    )
    rows = [prompt.metadata for prompt in found.load(None)]
    asked = {clause["class"]: row for row in rows for clause in row["include"]}
    assert len(asked) == 80
    pictures = photos("coffee").images.expand(len(asked), -1, -1, -1)[:, :, ::8, ::8]
    scores = Scorer(found.rewards)(samples(pictures, list(asked.values())))["correct"]
    assert set(scores.tolist()) <= {0.0, 1.0}
