"""Where prompts come from: files, generators, datasets of the hub."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import built_in_names
from flowgrpo.data.prompts import at_hand, digest_of_prompts, load_prompts, prompts_of
from flowgrpo.eval import countdown, geneval, ocr, sudoku
from flowgrpo.rewards.arithmetic import judge
from flowgrpo.rewards.objects import Row
from flowgrpo.scoring.scorer import find_reward

BENCHMARKS = {"geneval": geneval, "ocr": ocr, "countdown": countdown, "sudoku": sudoku}
GENERATORS = (*BENCHMARKS, "motion")
READ_BY = {"geneval": "objects:Soft", "ocr": "ocr", "countdown": "arithmetic:countdown", "sudoku": "sudoku:cells"}


def rows(source):
    return [prompt.metadata for prompt in load_prompts(source)]


def texts(source):
    return [prompt.text for prompt in load_prompts(source)]


def test_every_generator_that_ships_is_tested_here():
    assert set(built_in_names("flowgrpo.data.prompts")) == {*GENERATORS} and {*BENCHMARKS} == {*READ_BY}


@pytest.mark.parametrize("name", GENERATORS)
def test_rows_are_as_many_as_asked_differ_and_depend_on_split_count_and_seed_only(name):
    train = texts(f"{name}:train?count=300&seed=1")
    assert len(train) == len(set(train)) == 300
    assert train == texts(f"{name}?seed=1&count=300") and train[:100] == texts(f"{name}:train?count=100&seed=1")
    assert train != texts(f"{name}:train?count=300&seed=2") and texts(f"{name}:test?count=100") != train[:100]


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("split", ["", ":train", ":test"])
def test_a_name_alone_gives_a_thousand_rows(name, split):
    assert len(rows(f"{name}{split}")) == 1000


@pytest.mark.parametrize("name", GENERATORS)
def test_no_row_is_in_both_splits_or_in_the_benchmark(name):
    train = {text for seed in range(3) for text in texts(f"{name}:train?count=1500&seed={seed}")}
    test = {text for seed in range(3) for text in texts(f"{name}:test?count=100&seed={seed}")}
    asked = {prompt.text for prompt in BENCHMARKS[name].benchmark.load(None)} if name in BENCHMARKS else set()
    assert not train & test and not train & asked and not test & asked


def test_objects_the_other_way_round_are_in_no_other_split():
    def pairs(found):
        pair = [row for row in found if row["tag"] in ("two_object", "color_attr")]
        return {frozenset((item["class"], item.get("color")) for item in row["include"]) for row in pair}

    train, test = (pairs(rows(f"geneval:{split}?count=2000")) for split in ("train", "test"))
    assert train and not train & test
    assert not train & pairs([prompt.metadata for prompt in geneval.benchmark.load(None)])


def test_task_types_are_mixed_as_flow_grpo_mixes_them_until_one_has_no_more_rows():
    found = [row["tag"] for row in rows("geneval:train?count=170")]
    assert found.count("position") > found.count("counting") > found.count("color_attr") > found.count("colors")
    assert "single_object" not in found
    many = [row["tag"] for row in rows("geneval:train?count=3000")]
    assert 100 < many.count("counting") < 240


def test_texts_and_problems_are_in_one_split_whatever_carries_them():
    def written(split):
        return {row["text"] for row in rows(f"ocr:{split}?count=1000")}

    def problems(split):
        return {(*sorted(row["numbers"]), row["target"]) for row in rows(f"countdown:{split}?count=1000")}

    assert not written("train") & written("test") and not problems("train") & problems("test")
    assert not written("train") & {prompt.metadata["text"] for prompt in ocr.benchmark.load(None)}


def test_no_held_out_grid_solves_a_sudoku_that_is_trained_on():
    from flowgrpo.data.prompts.sudoku import HELD_OUT, solves

    puzzles = [row["puzzle"] for row in rows("sudoku:train?count=500")]
    assert not any(solves(grid, puzzle) for grid in HELD_OUT for puzzle in puzzles)
    assert {puzzle.count("0") for puzzle in puzzles} == {4, 6, 8, 10}
    assert {row["puzzle"].count("0") for row in rows("sudoku:test?count=20&blanks=6")} == {6}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_hold_what_their_reward_needs(name):
    card = find_reward(READ_BY[name])[1]
    for split in ("train", "test"):
        for prompt in load_prompts(f"{name}:{split}?count=200"):
            assert Row.read(prompt.metadata) if name == "geneval" else card.check(None, prompt) is not False
    assert all(len(row["numbers"]) == 3 for row in rows("countdown:test?count=20&size=3"))
    assert not judge("1", [1, 2, 3], 6).valid


@pytest.mark.parametrize(
    "source, said",
    [
        ("genevl", "did you mean 'geneval'"),
        ("promts", "no prompt file that exists, and names no generator"),
        ("geneval:tran", "has no split 'tran' (did you mean 'train'"),
        ("geneval?cuont=3", "unknown key 'cuont' (did you mean 'count'"),
        ("geneval?split=test", "unknown key 'split'"),
        ("geneval?count=3&count=4", "twice"),
        ("geneval?count", "key=value"),
        ("geneval?count=many", "count is how many rows"),
        ("geneval?count=0", "count is how many rows"),
        ("geneval?count=2.5", "count is how many rows"),
        ("geneval?count=true", "count is how many rows"),
        ("geneval?count=99999999999", "from 1 to 1,000,000"),
        ("geneval?seed=-1", "seed is a whole number"),
        ("sudoku?blanks=1&count=9000", "ask for fewer than 9000"),
        ("sudoku?blanks=17", "1 to 16 blanks"),
        ("countdown?size=5", "not size=5"),
        ("prompts.txt", "prompt file prompts.txt does not exist"),
        ("asset:nothing.jsonl", "does not exist"),
        ("nowhere.py:rows", "no such file"),
        ("own.py:nothing", "did you mean 'none'"),
        ("own.py", "there is no 'rows' in it"),
        ("other.py:without", "must be a function rows(split, count=..., seed=...): got an unexpected keyword argument 'split'"),
        ("other.py:asks", "must be a function rows(split, count=..., seed=...): missing a required argument: 'count'"),
        ("other.py:Class", "must be a function"),
        ("geneval:train:test", "'geneval' has no split 'train:test'"),
        (":train", "names no generator"),
        ("", "names no generator"),
        ("own.py:text", "must return a list of dicts, not 'a prompt'"),
        ("own.py:blank:test", "own.py:blank:test, row 2: the prompt is missing or empty"),
        ("own.py:broken", "raised ZeroDivisionError"),
        ("own.py:odd", "row 1: must hold nothing but what JSON can hold"),
        ("own.py:none", "own.py:none holds no prompts"),
        ("hub:gsm8k:question", "must have the form hub:OWNER/NAME"),
        ("hub:openai/gsm8k", "must have the form hub:OWNER/NAME"),
        ("hub:openai/gsm8k:question?spilt=test", "did you mean 'split'"),
        ("hub:openai/gsm8k:question?count=-1", "count is how many rows"),
    ],
)
def test_a_source_that_is_none_is_one_sentence(source, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "def {}(split, count=2, seed=0): return {}\n"
    own = {"notes": "[]", "text": "'a prompt'", "blank": "[{'prompt': 'a'}, {'prompt': ' '}]", "broken": "1 / 0"}
    own |= {"odd": "[{'prompt': 'a', 'x': {1, 2}}]", "none": "[]"}
    Path("own.py").write_text("".join(code.format(*item) for item in own.items()))
    Path("other.py").write_text("class Class: pass\ndef without(): return []\ndef asks(split, count): return []\n")
    with pytest.raises(UserError) as refused:
        load_prompts(source)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_generator_of_ones_own_has_the_parameters_of_its_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "def rows(split, count=2, seed=0, of='cat'): return [{'prompt': f'{split} {seed} {of} {i}'} for i in range(count)]\n"
    )
    assert texts("own.py?of=red+dog") == ["train 0 red dog 0", "train 0 red dog 1"]
    Path("lazy.py").write_text("def rows(split):\n    yield {'prompt': split}\n")
    assert texts("lazy.py:test") == ["test"]
    assert texts("own.py:test?count=1") == texts("own.py:rows:test?count=1") == texts("own:rows:test?count=1") == ["test 0 cat 0"]


def test_a_file_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("geneval.txt").write_text("a cat\n")
    assert texts("geneval.txt") == ["a cat"]
    with pytest.raises(UserError, match="a file takes no keys"):
        load_prompts("geneval.txt?count=3")


def test_prompts_are_pinned_by_what_they_are(tmp_path):
    assert digest_of_prompts("ocr:train?count=5") == digest_of_prompts("ocr?count=5&seed=0")
    assert digest_of_prompts("ocr:train?count=5") != digest_of_prompts("ocr:test?count=5")
    file = tmp_path / "p.txt"
    file.write_text("a cat\n")
    before = digest_of_prompts(str(file))
    file.write_text("a dog\n")
    assert digest_of_prompts(str(file)) != before


def test_rows_given_as_such_name_pictures_that_ship():
    (prompt,) = prompts_of([{"prompt": "make it snow", "image": "asset:calibration/coffee.jpg"}], "rows", Path())
    assert prompt.conditions["image"].is_file() and prompt.text == "make it snow"
    with pytest.raises(UserError, match="rows, row 2: the prompt is missing"):
        prompts_of([{"prompt": "a"}, {}], "rows", Path())


class Dataset(list):
    """What `datasets.load_dataset` returns, as far as it is asked for."""

    @property
    def column_names(self):
        return [*self[0]]

    def select_columns(self, names):
        return Dataset({name: row[name] for name in names} for row in self)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the library `datasets`: what it was asked for, and what it gives."""
    asked = []
    odd = {"extra": {1: b"x"}}
    found = [{"question": f"q{i % 3}", "answer": f"so #### {i % 3}", "source_img": picture(i % 3)} | odd for i in range(6)]

    def load_dataset(name, config, **options):
        asked.append((name, config, options))
        return Dataset(found)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    return asked


def picture(i):
    return Image.new("RGB", (8, 8), (i, 0, 0))


def test_a_column_of_a_dataset_is_the_prompt_and_the_others_stay(hub):
    found = rows("hub:openai/gsm8k/main:question?split=test&revision=abc123")
    assert hub == [("openai/gsm8k", "main", {"split": "test", "revision": "abc123", "streaming": False})]
    assert [row["prompt"] for row in found] == ["q0", "q1", "q2"], "equal rows are kept once"
    assert {*found[0]} == {"prompt", "answer", "source_img"}, "what JSON can't hold is left out"


def test_only_what_is_needed_is_fetched_where_rows_are_counted(hub):
    assert rows("hub:a/b:question?fields=right:answer&count=2") == [
        {"prompt": "q0", "right": "so #### 0"},
        {"prompt": "q1", "right": "so #### 1"},
    ]
    assert rows("hub:a/b:question?fields=&count=1&revision=12345e6") == [{"prompt": "q0"}]
    assert hub[-1][2]["revision"] == "12345e6", "a commit is no number"
    (row,) = rows(r"hub:a/b:question?fields=&count=1&after=Answer in \boxed{}, please.")
    assert row == {"prompt": "q0\n\nAnswer in \\boxed{}, please."}
    assert hub[0] == ("a/b", None, {"split": "train", "revision": None, "streaming": True})


def test_pictures_are_kept_once_under_names_by_content(hub, tmp_path):
    first, again = (load_prompts("hub:a/b:question?fields=image:source_img,before:source_img") for _ in range(2))
    files = sorted((tmp_path / "flowgrpo-pictures").iterdir())
    assert len(files) == 3 and first == again
    for i, prompt in enumerate(first):
        assert Image.open(prompt.conditions["image"]).getpixel((0, 0)) == (i, 0, 0)
        assert prompt.metadata["image"] == prompt.metadata["before"] == f"picture:{prompt.conditions['image'].name}"
        assert "before" not in prompt.conditions
    assert digest_of_prompts("hub:a/b:question?fields=image:source_img") != digest_of_prompts("hub:a/b:question?fields=")


@pytest.mark.parametrize(
    "source, said",
    [
        ("hub:a/b:qestion", "did you mean 'question'"),
        ("hub:a/b:question?fields=answr", "did you mean 'answer'"),
        ("hub:a/b:question?fields=extra", "JSON can't hold its 'extra'"),
        ("hub:a/b:extra", "JSON can't hold its 'extra'"),
        ("hub:a/b:question?count=4&fields=", "only 3 different rows"),
    ],
)
def test_what_a_dataset_does_not_hold_is_one_sentence(source, said, hub):
    with pytest.raises(UserError, match=said):
        load_prompts(source)


def unreachable(*arguments, **options):
    raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\n(timed out)")


@pytest.mark.parametrize("library", [None, SimpleNamespace(load_dataset=unreachable)])
def test_without_the_hub_or_its_library_a_sentence_says_what_rehearses_the_recipe(library, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(UserError) as refused:
        load_prompts("hub:openai/gsm8k/main:question")
    assert "--tiny" in str(refused.value) and "\n" not in str(refused.value)
    assert ("pip install 'flowgrpo[hub]'" if library is None else "can't be had from the hub") in str(refused.value)
    source = "rollout.prompts=hub:openai/gsm8k/main:question"
    assert main(["train", "quickstart", source, f"output={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_plan_makes_prompts_and_fetches_none(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    assert [at_hand(source) for source in ("hub:a/b:c", "prompts.txt", "geneval:train", "asset:quickstart.webp")] == [0, 0, 1, 1]
    assert main(["plan", "quickstart", "rollout.prompts=hub:openai/gsm8k/main:question", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["plan", "quickstart", "rollout.prompts=geneval:trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
