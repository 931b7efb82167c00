"""Benchmarks as they are run: figures that repeat, evaluations that go on, paired tests, and what bad input is told."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from flowgrpo.cli.main import main
from flowgrpo.config.sections import RewardConfig
from flowgrpo.config.source import read_source
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import sign_flip_p
from flowgrpo.core.paths import locate
from flowgrpo.core.pin import pin
from flowgrpo.core.plugins import built_in_names
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.records import Record, read_records
from flowgrpo.eval._own import shipped
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.comparison import difference, prompt_gains, prompt_means, result, score_table
from flowgrpo.evaluation.pins import fingerprint, names_of, weights
from flowgrpo.runs.run import Run

OWN = """
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.config.sections import RewardConfig
from flowgrpo.data.prompts import load_prompts

def figures(prompts, scores):
    return {label: float(values.mean()) for label, values in scores.items()}

benchmark = Benchmark(
    summary="ten problems & their answers",
    source="<me>",
    licence="mine",
    load=lambda path: load_prompts("asset:mini-mdlm/prompts/held_out.jsonl.gz")[:10],
    rewards={"valid": RewardConfig(use="arithmetic:countdown_valid"), "length": RewardConfig(use="own_reward.py:reward")},
    metric="valid",
    figures=figures,
    samples_per_prompt=2,
    steps=8,
    published={"a better model": {"valid": 1.0}},
)
wrong_metric = Benchmark(**{**vars(benchmark), "metric": "beauty"})
pins_a_call = Benchmark(**{**vars(benchmark), "call": {"guidance_scale": 2.0}})
compares = Benchmark(**{**vars(benchmark), "rewards": {"valid": RewardConfig(use="comparing.py:reward")}})
no_benchmark = 3
"""
REWARD = "def reward(samples):\n    return [len(text) / 8 for text in samples.texts]\n"
COMPARES = """
from flowgrpo.scoring.card import card

@card(reads="texts", range=(0, 1), better="?", licence="mine", source="me", compares=True)
def reward(samples):
    return [0.5] * len(samples)
"""
FAILS = """
from pathlib import Path

def reward(samples):
    if not Path("mended").exists() and any({condition} for text in samples.prompts):
        raise {error}
    return [len(text) / 8 for text in samples.texts]
"""
MODEL = ["own_benchmark.py:benchmark", "mini-mdlm/trajectory", "--batch", "4"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_benchmark.py").write_text(OWN)
    Path("own_reward.py").write_text(REWARD)


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["eval", *arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["eval", *arguments]) == 2
    return capsys.readouterr().err


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_ones_own_benchmark_is_evaluated_twice_with_the_same_figures(capsys):
    first, second = (evaluate(capsys, *MODEL, "--seed", "7", "--out", out) for out in ("a", "b"))
    assert first == {**second, "out": "a"} and first["benchmark"] == "own_benchmark"
    assert Path("a/base/scores.jsonl").read_bytes() == Path("b/base/scores.jsonl").read_bytes()
    records = lines("a/base/scores.jsonl")
    assert [(r["row"], r["sample"], r["seed"]) for r in records] == [(i, k, 7 + 2 * i + k) for i in range(10) for k in range(2)]
    assert all(r["shown"] == "text" and "text" in r and set(r["scores"]) == {"valid", "length"} for r in records)
    summary = json.loads(Path("a/summary.json").read_text())
    (base,) = summary["models"]
    assert base["figures"]["valid"] == pytest.approx(np.mean([r["scores"]["valid"] for r in records]))
    assert base["mean"] == first["means"]["base"] and base["prompts"] == 10 and base["samples"] == 20 and not base["failed"]
    assert summary["command"].startswith("flowgrpo eval own_benchmark.py:benchmark mini-mdlm/trajectory --seed 7")
    assert summary["steps"] == 8 and summary["published"] and summary["versions"]["torch"]
    assert evaluate(capsys, *MODEL, "--seed", "8", "--out", "c")["means"] != first["means"]


def test_limit_takes_prompts_at_even_distances_with_their_own_seeds(capsys):
    evaluate(capsys, *MODEL, "--limit", "4")
    records = lines("evals/own_benchmark-mini-mdlm-trajectory/base/scores.jsonl")
    assert [(r["row"], r["seed"]) for r in records] == [(i, 2 * i + k) for i in (0, 2, 5, 7) for k in range(2)]


@pytest.mark.parametrize("keep, rows", [("first", [0, 0]), ("all", [0, 1, 2, 3, 0, 1, 2, 3])])
def test_pictures_of_the_first_sample_or_of_all_are_kept(capsys, keep, rows):
    evaluate(capsys, "mini_scenes", "quickstart", "--limit", "2", "--keep", keep, "--out", "out")
    pictures = sorted(picture.stem for picture in Path("out/base").glob("*.png"))
    assert pictures == [f"{row:05d}-{k}" for row, k in zip([0] * (len(rows) // 2) + [150] * (len(rows) // 2), rows, strict=True)]


def test_an_evaluation_that_was_cut_off_goes_on_to_the_same_end(capsys):
    whole = evaluate(capsys, *MODEL, "--out", "out")
    file = Path("out/base/scores.jsonl")
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    assert evaluate(capsys, *MODEL, "--out", "out") == whole
    assert file.read_text() == text


def test_an_interrupt_keeps_what_is_done(capsys):
    fifth = json.dumps(read_prompts()[5].text)
    Path("own_reward.py").write_text(FAILS.format(condition=f"text == {fifth}", error="KeyboardInterrupt"))
    assert "the same command goes on" in refusal(capsys, *MODEL, "--out", "out")
    done = Path("out/base/scores.jsonl").read_text()
    assert len(done.splitlines()) == 8
    Path("mended").touch()
    evaluate(capsys, *MODEL, "--out", "out")
    assert Path("out/base/scores.jsonl").read_text().startswith(done) and len(lines("out/base/scores.jsonl")) == 20


def read_prompts() -> list[Prompt]:
    return shipped("asset:mini-mdlm/prompts/held_out.jsonl.gz")(None)


def test_a_reward_that_fails_on_a_prompt_is_counted_and_tried_again_by_the_same_command(capsys):
    fifth = json.dumps(read_prompts()[5].text)
    Path("own_reward.py").write_text(FAILS.format(condition=f"text == {fifth}", error="ValueError('too odd')"))
    evaluate(capsys, *MODEL, "--out", "out")
    (base,) = json.loads(Path("out/summary.json").read_text())["models"]
    assert base["failed"] == {"length": 2} and base["prompts"] == 9 and base["samples"] == 18
    errors = {r["row"]: r["errors"] for r in lines("out/base/scores.jsonl") if r["errors"]}
    assert list(errors) == [5] and "too odd" in errors[5]["length"]
    assert "too odd" in Path("out/report.html").read_text()
    Path("mended").touch()
    evaluate(capsys, *MODEL, "--out", "out")
    (base,) = json.loads(Path("out/summary.json").read_text())["models"]
    assert base["failed"] == {} and base["samples"] == 20


def test_a_reward_that_fails_on_everything_stops_the_evaluation_early(capsys):
    Path("own_reward.py").write_text(FAILS.format(condition="True", error="ValueError('no server')"))
    assert "reward 'length' failed on all of the first 8 samples: " in refusal(capsys, *MODEL, "--out", "out")
    assert len(lines("out/base/scores.jsonl")) == 8


SMALL = [
    *("rollout.prompts_per_update=2", "rollout.group_size=2", "updates=1", "optimizer.lr=0.02", "optimizer.warmup=0"),
    *("optimizer.steps_per_update=1", "evaluation.limit=6", "evaluation.pictures=2"),
    "rewards.bright={use: 'brightness.py:reward'}",
]
HELD_OUT = """
from dataclasses import replace
from flowgrpo.config.sections import RewardConfig
from flowgrpo.eval.mini_scenes import benchmark
bright = {"bright": RewardConfig(use="brightness.py:reward")}
benchmark = replace(benchmark, steps=4, samples_per_prompt=1, rewards={**benchmark.rewards, **bright})
"""


@pytest.mark.parametrize("lora", [["policy.lora={rank: 8}"], []], ids=["lora", "all weights"])
def test_a_checkpoint_scores_what_its_run_said(capsys, lora):
    Path("brightness.py").write_text("def reward(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    Path("held_out.py").write_text(HELD_OUT)
    assert main(["train", "quickstart", *SMALL, *lora]) == 0
    run = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])
    last = str(run / "checkpoint-000001" / "ema")
    options = ["--limit", "6", "--seed", "1000", "--out", "out", "--checkpoint", last]
    found = evaluate(capsys, "held_out.py:benchmark", "quickstart", *lora, *options)
    name = f"{run.name}-checkpoint-000001-ema"
    said = {when: Run(run).scores(when, "bright") for when in ("before", "after")}
    assert said["before"] != pytest.approx(said["after"], rel=1e-3)
    for model, when in (("base", "before"), (name, "after")):
        scores = [record["scores"] for record in lines(f"out/{model}/scores.jsonl")]
        assert all(row.keys() == {"strict", "soft", "bright"} for row in scores)
        assert [row["bright"] for row in scores] == pytest.approx(said[when], rel=1e-4)
    assert [(d["checkpoint"], d["reward"]) for d in found["differences"]] == [(name, r) for r in ("strict", "soft", "bright")]
    page = Path("out/report.html").read_text()
    assert page.count("<img") >= 12 and "http" not in page and "<script" not in page
    assert page.count("checkpoint-000001-ema in strict: ") == 1 and "What got worse" in page


def test_the_page_opens_offline_and_escapes_what_it_shows(capsys):
    evaluate(capsys, *MODEL, "--limit", "2", "--out", "out")
    page = Path("out/report.html").read_text()
    assert "http" not in page and "&lt;me&gt;" in page and "<me>" not in page and "problems &amp; their" in page
    assert "a better model" in page and "How to repeat it" in page and "Is it better?" not in page


PROMPTS = [Prompt(4, "a"), Prompt(6, "b"), Prompt(9, "c")]


def records(scores: list[list[float | None]], label: str = "score") -> list[Record]:
    """Of PROMPTS, a list of samples each; None: the reward failed."""
    places = [(p, k, score) for p, row in zip(PROMPTS, scores, strict=True) for k, score in enumerate(row)]
    return [
        Record(
            p.index,
            k,
            0,
            {"prompt": p.text},
            {"text": ""},
            {} if s is None else {label: s},
            {label: "broken"} if s is None else {},
        )
        for p, k, s in places
    ]


def test_samples_of_a_prompt_are_averaged_before_prompts_are_compared():
    base, new = records([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), records([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    gains = prompt_gains(PROMPTS, 2, "score", base, new)
    assert gains.tolist() == [0.5, 0.5, -0.5]
    found = difference("new", "score", gains)
    assert found.mean == pytest.approx(1 / 6) and (found.prompts, found.better, found.worse) == (3, 2, 1)
    assert found.ci95 == pytest.approx((-0.5, 0.5)) and found.p == 1.0 and found.word == "no difference shown"


def test_only_samples_that_both_have_scores_of_are_paired():
    base, new = records([[0.0, None], [0.0, 0.0], [None, None]]), records([[0.5, 9.0], [None, 0.25], [1.0, 1.0]])
    gains = prompt_gains(PROMPTS, 2, "score", base, new)
    assert gains[:2].tolist() == [0.5, 0.25] and np.isnan(gains[2])
    assert difference("new", "score", gains).prompts == 2
    with pytest.raises(UserError, match="on every sample some reward failed"):
        difference("new", "score", np.array([np.nan]))


def test_a_result_leaves_failed_samples_out():
    def figures(prompts, scores):
        return {p.text: float(value) for p, value in zip(prompts, scores["score"], strict=True)}

    benchmark = Benchmark("", "", "", lambda path: PROMPTS, {"score": RewardConfig(use="x:y")}, "score", figures, 2)
    found = result("m", benchmark, PROMPTS, records([[1.0, None], [0.0, 0.5], [None, None]]))
    assert found.mean == pytest.approx((1.0 + 0.25) / 2) and (found.prompts, found.samples) == (2, 3)
    assert found.failed == {"score": 3} and found.figures == {"a": 1.0, "b": 0.5}


def test_tables_hold_scores_in_the_places_of_their_prompts():
    table = score_table(PROMPTS, records([[1.0, 2.0], [3.0, None], [5.0, 6.0]])[::-1], "score", 2)
    assert np.nan_to_num(table, nan=-1.0).tolist() == [[1.0, 2.0], [3.0, -1.0], [5.0, 6.0]]
    assert prompt_means(table).tolist() == [1.5, 3.0, 5.5]


@pytest.mark.parametrize(
    "differences", [[0.3, -0.1, 0.2, 0.4, 0.1, 0.25], [1.0] * 8, [0.0, 0.0, 1.0, -1.0], [2.0, -1.0, 0.5], [0.0], [0.0] * 9]
)
def test_the_p_value_is_that_of_all_signs(differences):
    values = np.array(differences)
    sums = np.array([abs(values @ signs) for signs in product((-1.0, 1.0), repeat=len(values))])
    exact = (sums >= abs(values.sum()) - 1e-9).mean()
    assert sign_flip_p(values) == pytest.approx(exact)


def test_of_many_differences_signs_are_drawn_and_no_p_value_is_0():
    assert sign_flip_p(np.ones(100)) == pytest.approx(1 / 10_001)
    assert sign_flip_p(np.tile([1.0, -1.0], 50)) == pytest.approx(1.0)


def test_sums_that_differ_by_rounding_alone_are_equal():
    assert 0.1 + 0.2 - 0.3 != 0.0
    assert sign_flip_p(np.array([0.1, 0.2, -0.3])) == 1.0


def test_a_word_needs_a_small_p_value():
    words = [difference("m", "r", np.array(gains)).word for gains in ([1.0] * 9, [-1.0] * 9, [1.0] * 4, [0.0] * 9)]
    assert words == ["better", "worse", "no difference shown", "no difference shown"]


def test_bad_input_is_answered_with_a_sentence(capsys):
    assert "did you mean 'geneval'" in refusal(capsys, "genval", "quickstart")
    assert "name a model too" in refusal(capsys, "mini_scenes")
    assert "no config file or shipped recipe 'cbs' of 'mini/cbs'" in refusal(capsys, "mini_scenes", "mini/cbs")
    assert "nothing.py: no such file" in refusal(capsys, "nothing.py:benchmark", "quickstart")
    assert "is a int, and must be a Benchmark" in refusal(capsys, "own_benchmark.py:no_benchmark", "quickstart")
    assert "its metric 'beauty' is not one of its rewards" in refusal(capsys, "own_benchmark.py:wrong_metric", "quickstart")
    assert "whose call it pins" in refusal(capsys, "own_benchmark.py:pins_a_call", "mini-mdlm/trajectory")
    assert "has its own prompts; leave --file out" in refusal(capsys, "mini_scenes", "quickstart", "--file", "x.jsonl")
    assert "no such checkpoint folder" in refusal(capsys, "mini_scenes", "quickstart", "--checkpoint", "nowhere")
    assert not Path("evals").exists()
    assert "reward 'strict' reads images, but policy 'masked' makes texts" in refusal(capsys, "mini_scenes", MODEL[1])
    assert "reward 'strict' reads texts, but policy 'diffusers' makes images or videos" in refusal(
        capsys, "countdown", "quickstart"
    )
    assert "row 1 can't be tokenized" in refusal(capsys, "countdown", MODEL[1])


def test_a_reward_that_compares_samples_with_one_another_is_refused(capsys):
    Path("comparing.py").write_text(COMPARES)
    assert "compares the samples of a prompt" in refusal(capsys, "own_benchmark.py:compares", "mini-mdlm/trajectory")


def test_results_of_other_settings_are_not_mixed(capsys):
    evaluate(capsys, *MODEL, "--limit", "2", "--out", "out")
    assert "out holds results with other seed;" in refusal(capsys, *MODEL, "--limit", "2", "--out", "out", "--seed", "1")
    assert "out holds results with other prompts;" in refusal(capsys, *MODEL, "--limit", "3", "--out", "out")


def test_results_of_another_model_or_reward_are_not_taken_for_new_ones(capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(locate("asset:mini-mdlm"), model)
    options = [MODEL[0], MODEL[1], f"policy.model={model}", "--limit", "2", "--out", "out"]
    evaluate(capsys, *options)
    Path("own_reward.py").write_text(REWARD.replace("8", "9"))
    assert "out holds results with other rewards;" in refusal(capsys, *options)
    Path("own_reward.py").write_text(REWARD)
    evaluate(capsys, *options)
    tensors = load_file(model / "model.safetensors")
    save_file({name: -tensor for name, tensor in tensors.items()}, model / "model.safetensors")
    assert "out holds results with other model;" in refusal(capsys, *options)
    Path("out/settings.json").unlink()
    assert "out holds results without settings.json" in refusal(capsys, *options)


def test_what_a_prompt_row_works_from_belongs_to_the_prompts(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    prompts = [Prompt(0, "a", {"image": "a.png"}, {"image": tmp_path / "a.png"})]
    before = fingerprint(prompts)
    (tmp_path / "a.png").write_bytes(b"2")
    assert fingerprint(prompts) != before


def test_a_checkpoint_must_hold_weights_of_its_own(tmp_path):
    last = tmp_path / "run" / "checkpoint-000002"
    (last / "ema").mkdir(parents=True)
    (last / "state").mkdir()
    (last / "state" / "trainable.safetensors").write_bytes(b"1")
    with pytest.raises(UserError, match=r"is a run; name one of its checkpoints, such as .*checkpoint-000002"):
        weights(tmp_path / "run")
    with pytest.raises(UserError, match="holds no weights"):
        weights(last)
    (last / "ema" / "pytorch_lora_weights.safetensors").write_bytes(b"2")
    with pytest.raises(UserError, match="holds no weights"):
        weights(last)
    assert list(weights(last / "ema")) == ["pytorch_lora_weights.safetensors"]
    (last / "transformer").mkdir()
    (last / "transformer" / "model.safetensors").write_bytes(b"2")
    assert weights(last).keys() == {"transformer/model.safetensors"}
    assert list(weights(last).values()) == list(weights(last / "ema").values())
    before = weights(last)
    (last / "transformer" / "config.json").write_text("{}")
    assert weights(last) != before


def test_checkpoints_are_filed_under_run_and_checkpoint(tmp_path):
    folders = [tmp_path / "a" / "checkpoint-000001" / "ema", tmp_path / "a" / "checkpoint-000001", tmp_path / "b" / "mine"]
    assert list(names_of(folders)) == ["a-checkpoint-000001-ema", "a-checkpoint-000001", "b-mine"]
    with pytest.raises(UserError, match="would both be called 'a-checkpoint-000001'"):
        names_of([tmp_path / "x" / "a" / "checkpoint-000001", tmp_path / "a" / "checkpoint-000001"])


def test_without_a_name_all_benchmarks_are_listed(capsys):
    assert main(["eval"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name}\n" in f"\n{out}" for name in built_in_names("flowgrpo.eval"))
    assert "prompts: 300\n  samples of each: 4\n" in out and "strict (scene:strict)" in out and "--file" in out


def test_a_source_is_a_config_or_a_pipeline(pipelines):
    quickstart = read_source("quickstart", [])
    assert (quickstart.steps, quickstart.batch) == (4, 64) and read_source("quickstart", [], steps=9).steps == 9
    folder = read_source(str(pipelines["sd3"]), ["call.guidance_scale=2", "steps=7"])
    assert folder.policy.call == {"guidance_scale": 2} and (folder.steps, folder.batch) == (7, 8)
    assert read_source("somebody/a-model", []).policy.model == "somebody/a-model"
    for slip in ("mini/cbs", "somebody/run.yaml", "quikstart"):
        with pytest.raises(UserError, match="no config file or shipped recipe"):
            read_source(slip, [])


def test_records_that_are_damaged_are_named(tmp_path):
    (tmp_path / "scores.jsonl").write_text('{"row": 0}\n{"row"')
    with pytest.raises(UserError, match=r"scores\.jsonl has a line that flowgrpo has not written"):
        read_records(tmp_path / "scores.jsonl")
    (tmp_path / "settings.json").write_text('{"seed"')
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        pin(tmp_path, {"seed": 0}, "scores.jsonl")
