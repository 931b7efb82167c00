"""All rows of a prompt file are checked before any is drawn, and what an encoder cuts is said: how many prompts, and where."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.prompt_check import check_files
from flowgrpo.policies.tiny import pipelines
from flowgrpo.policies.tiny.mdlm import save
from flowgrpo.scoring.scorer import Scorer
from mdlm import config_of

CIRCLE = {"prompt": "a red circle", "include": [{"class": "circle", "count": 1, "color": "red"}]}
LONG = "a red circle left of a blue square on a white background " * 3
CUT = "1 beyond 16 tokens of tokenizer, 1 beyond 16 tokens of tokenizer_2 (the longest, row 3, has 38); they are cut there"
SMALL = [
    *("updates=1", "evaluation=null", "rollout.prompts_per_update=2", "rollout.group_size=2", "optimizer.steps_per_update=1"),
    *("rollout.prompts=p.jsonl", "ema=null"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*rows, name="p.jsonl"):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_prompts_that_ship_are_not_cut():
    for recipe in ("quickstart", "mini-amused/trajectory", "mini-wan/dance_grpo", "mini-mdlm/trajectory"):
        config = load_config(recipe)
        files = {name: load_prompts(name) for name in (config.rollout.prompts, config.evaluation.prompts)}
        assert check_files(config.policy, files) == []


def test_what_is_cut_is_what_the_tokenizer_leaves_out():
    policy = load_config("mini/flow_grpo").policy
    tokenizer = CLIPTokenizer.from_pretrained(str(locate("asset:mini-sd3") / "tokenizer"))
    prompts = [Prompt(i, " ".join(["circle"] * i)) for i in range(1, 30)]
    whole = [len(tokenizer(p.text)["input_ids"]) == len(tokenizer(p.text, truncation=True)["input_ids"]) for p in prompts]
    (note,) = policy.check(prompts)
    assert note.startswith(f"{whole.count(False)} of 29 prompts are too long for a text encoder") and "beyond 16 tokens" in note
    assert policy.check([prompt for prompt, fits in zip(prompts, whole, strict=True) if fits]) == []


def test_plan_train_and_the_report_say_once_what_is_cut(folder, capsys):
    write(CIRCLE, CIRCLE, {**CIRCLE, "prompt": LONG})
    assert main(["plan", "mini/flow_grpo", *SMALL, "--json"]) == 0
    told = capsys.readouterr()
    assert told.err.count(f"flowgrpo: p.jsonl: 1 of 3 prompts are too long for a text encoder: {CUT}") == 1
    assert CUT in json.loads(told.out)["notes"][0]
    assert main(["train", "mini/flow_grpo", *SMALL]) == 0
    told = capsys.readouterr()
    assert told.err.count(CUT) == 1
    run = Path(json.loads(told.out.splitlines()[-1])["run"])
    assert (run / "report.html").read_text().count(CUT) == 1


def test_sample_and_eval_say_what_is_cut(folder, capsys):
    write({"prompt": "a red circle"}, {"prompt": "a blue circle"}, {"prompt": LONG})
    assert main(["sample", "mini/flow_grpo", "--prompts", "p.jsonl", "--steps", "1", "--out", "s"]) == 0
    assert capsys.readouterr().err.count(CUT) == 1
    (folder / "mine.py").write_text(
        "from flowgrpo.config.sections import RewardConfig\n"
        "from flowgrpo.data.prompts import load_prompts\n"
        "from flowgrpo.eval._figures import means\n"
        "from flowgrpo.evaluation.benchmarks.benchmark import Benchmark\n"
        "benchmark = Benchmark(summary='', source='', licence='', load=lambda path: load_prompts('p.jsonl'), metric='detail',\n"
        "    rewards={'detail': RewardConfig(use='statistics:high_frequency')}, figures=lambda asked, scores: means(scores))\n"
    )
    assert main(["eval", "mine.py:benchmark", "mini/flow_grpo", "--out", "e"]) == 0
    assert capsys.readouterr().err.count(CUT) == 1


@pytest.mark.parametrize(
    "name, call, cut",
    [
        ("pixart_alpha", {"max_sequence_length": 20}, "1 beyond 20 tokens of tokenizer"),
        ("flux", {"max_sequence_length": 24}, "1 beyond 24 tokens of tokenizer_2"),
        ("flux", {"max_sequence_length": 512}, None),
    ],
)
def test_an_encoder_without_a_table_of_positions_cuts_where_the_call_says(tmp_path, name, call, cut):
    pipelines()[name].build().save_pretrained(tmp_path)
    notes = DiffusersConfig(model=str(tmp_path), steps=2, call=call).check([Prompt(0, "ab"), Prompt(1, "a red circle " * 3)])
    assert not any("tokens of tokenizer_" in note for note in notes) if cut is None else cut in notes[0]


TRUE_TO_CODE = ["sd15", "flux", "pixart_alpha", "wan", "cogvideox", "hunyuandit", "kandinsky3", "latte", "deepfloyd_if"]


@pytest.mark.parametrize("name", TRUE_TO_CODE)
def test_a_prompt_is_cut_where_the_pipelines_own_code_cuts_it(tmp_path, monkeypatch, name):
    class Encoded(Exception):
        pass

    def stop(*_, **__):
        raise Encoded

    def watched(self, *texts, **options):
        if options.get("truncation"):
            passed.add(options["max_length"])
        return tokenize(self, *texts, **options)

    tiny, tokenize = pipelines()[name], PreTrainedTokenizerBase.__call__
    passed: set[int] = set()
    pipe = tiny.build()
    pipe.save_pretrained(tmp_path)
    (pipe.transformer if "transformer" in pipe.components else pipe.unet).forward = stop
    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", watched)
    with pytest.raises(Encoded):
        pipe(tiny.prompt, **{**tiny.call, "num_inference_steps": 2})
    monkeypatch.undo()
    (note,) = DiffusersConfig(model=str(tmp_path), steps=2, call=tiny.call).check([Prompt(0, "a red circle " * 99)])
    assert set(map(int, re.findall(r"beyond (\d+) tokens", note))) == passed


def test_a_pipeline_that_refuses_long_prompts_is_not_asked_for_one(tmp_path):
    tiny = pipelines()["ideogram4"]
    tiny.build().save_pretrained(tmp_path)
    policy = DiffusersConfig(model=str(tmp_path), steps=2, call=tiny.call)
    assert policy.check([Prompt(0, tiny.prompt)]) == []
    with pytest.raises(UserError, match=r"p.txt: 1 of 2 prompts .* and Ideogram4Pipeline refuses them; shorten them, or raise"):
        check_files(policy, {"p.txt": [Prompt(0, tiny.prompt), Prompt(154, tiny.prompt * 20)]})


def test_a_prompt_with_a_word_that_the_encoder_does_not_know_is_refused(tmp_path):
    pipe = pipelines()["flux"].build()
    size = pipe.text_encoder_2.config.vocab_size
    pipe.tokenizer_2.add_tokens([*(f"word{i}" for i in range(size)), "circle"])
    pipe.save_pretrained(tmp_path)
    policy = DiffusersConfig(model=str(tmp_path), steps=2)
    assert policy.check([Prompt(0, "a square")]) == []
    beyond = pipe.tokenizer_2.convert_tokens_to_ids("circle")
    with pytest.raises(
        UserError, match=f"p.txt: of prompts, row 2 has id {beyond} of tokenizer_2, and text_encoder_2 knows {size}"
    ):
        check_files(policy, {"p.txt": [Prompt(0, "a square"), Prompt(1, "a circle")]})


def test_of_a_model_that_is_not_here_nothing_is_known(folder, capsys):
    policy = DiffusersConfig(model="nobody/has-this-one", steps=2)
    assert check_files(policy, {"p.jsonl": [Prompt(0, "a")]}) is None
    Path("prompts.txt").write_text("a red circle\n")
    assert main(["plan", "sd3.5-medium", "flow_grpo", "ocr"]) == 0
    assert "flowgrpo: whether prompts are cut is not known" in capsys.readouterr().err


def test_a_prompt_that_does_not_fit_on_the_canvas_stops_before_the_model_is_loaded(folder, capsys, monkeypatch):
    monkeypatch.setattr("flowgrpo.policies.masked._policy.load_model", None)
    rows = load_prompts("asset:mini-mdlm/prompts/train.jsonl.gz")[:4]
    write(
        *(row.metadata for row in rows),
        {**rows[0].metadata, "prompt": rows[0].text * 9},
        {**rows[1].metadata, "prompt": "1" * 80},
    )
    for command in ("plan", "train"):
        assert main([command, "mini-mdlm/trajectory", "rollout.prompts=p.jsonl"]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("flowgrpo: p.jsonl: 2 of 6 prompts have more ids than policy.prompt_length =") and "row 5" in told


def test_a_row_that_can_not_be_tokenized_is_found_wherever_it_is(tmp_path):
    policy = config_of(save(tmp_path / "model"))
    with pytest.raises(UserError, match=r"p.txt: the prompt in row 155 has no ids"):
        check_files(policy, {"p.txt": [*(Prompt(i, "1+2=") for i in range(154)), Prompt(154, "")]})


# Pictures that rows name.


def edit_model(folder, name="flux_kontext"):
    pipelines()[name].build().save_pretrained(folder / "model")
    return DiffusersConfig(model=str(folder / "model"), steps=2)


def test_pictures_that_a_pipeline_does_not_take_or_can_not_read_are_found_in_any_row(folder):
    policy = edit_model(folder)
    Image.new("RGB", (8, 8)).save("fine.png")
    Image.new("I;16", (8, 8)).save("deep.png")
    Image.new("RGB", (8, 8)).save("two.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    Path("words.png").write_text("no picture")
    Path("cut.png").write_bytes(Path("fine.png").read_bytes()[:-20])
    fine = {"prompt": "make it night", "image": "fine.png"}
    write(*[fine] * 3)
    assert policy.check(load_prompts("p.jsonl")) == []
    for row, sentence in [
        ({"image": "deep.png"}, "deep.png has pixels of mode I;16"),
        ({"image": "cut.png"}, "cut.png can't be read"),
        ({"image": "words.png"}, "words.png can't be read"),
        ({"image": "two.gif"}, "two.gif has 2 frames or pages, and one picture is wanted"),
        ({"image": "fine.png", "pose_video": "two.gif"}, "prompt rows have 'pose_video', but FluxKontextPipeline takes none"),
    ]:
        write(*[fine] * 9, {"prompt": "make it night", **row})
        with pytest.raises(UserError, match=f"p.jsonl: row 10: .*{sentence}"):
            check_files(policy, {"p.jsonl": load_prompts("p.jsonl")})


def test_a_row_without_the_picture_that_a_pipeline_needs_is_found(folder):
    policy = edit_model(folder, "wan_i2v")
    Image.new("RGB", (8, 8)).save("fine.png")
    write({"prompt": "p", "image": "fine.png"}, {"prompt": "p"})
    with pytest.raises(UserError, match="row 2: WanImageToVideoPipeline works from 'image'"):
        policy.check(load_prompts("p.jsonl"))


# What rewards need of rows.

FACE = {"tag": "single_object", "include": [{"class": "face", "count": 1}]}
MOVES = {"shape": "circle", "color": "red", "motion": "left"}
GOOD_AND_BAD = {
    "scene:strict": (CIRCLE, {"prompt": "a red circle"}),
    "scene:soft": (CIRCLE, {"include": [{"class": "circle"}]}),
    "objects:Strict": (FACE, {"tag": "x", "include": 3}),
    "objects:Soft": (FACE, {**FACE, "include": [{"class": "dog", "count": 1}]}),
    "motion:strict": (MOVES, {"shape": "circle", "color": "red"}),
    "motion:soft": (MOVES, {**MOVES, "motion": "away"}),
    "ocr": ({"text": "OPEN"}, {"prompt": "no quotes"}),
    "classifier": ({"label": "tabby"}, {"label": "no such class"}),
    "sentence": ({"reference": "a"}, {"references": 3}),
    "sudoku:solved": ({"puzzle": "1234341221434320"}, {"puzzle": "1"}),
    "arithmetic:countdown": ({"numbers": [1, 2], "target": 3}, {"numbers": [1, 2], "target": "3"}),
    "maths:exact": ({"answer": "1"}, {"answer": 1}),
    "maths:Maths": ({"answer": "1"}, {}),
    "reference:Pixels": ({"reference": "asset:calibration/coffee.jpg"}, {"reference": "nowhere.png"}),
}


@pytest.mark.parametrize("use", GOOD_AND_BAD)
def test_a_row_that_a_reward_can_not_use_is_found_wherever_it_is(use):
    good, bad = ([Prompt(i, row.get("prompt", "p"), row)] for i, row in enumerate(GOOD_AND_BAD[use]))
    scorer = Scorer({"mine": RewardConfig(use=use)})
    scorer.check(good * 3, "p.jsonl")
    with pytest.raises(UserError, match=r"p.jsonl, row 2: reward 'mine' can't use it: "):
        scorer.check([*good * 154, *bad], "p.jsonl")


def test_a_bad_row_stops_training_before_a_run_folder_is_made(folder, capsys):
    write(*[CIRCLE] * 40, {"prompt": "a red circle"})
    assert main(["train", "mini/flow_grpo", *SMALL]) == 2
    assert "p.jsonl, row 41: reward 'strict' can't use it" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_reward_of_ones_own_says_what_rows_must_hold(folder):
    Path("mine.py").write_text(
        "from flowgrpo.core.errors import UserError\n"
        "from flowgrpo.scoring.card import card\n"
        "def needs_size(reward, prompt):\n"
        "    if 'size' not in prompt.metadata:\n"
        "        raise UserError('there is no size')\n"
        "@card(reads='images', range=(0, 1), better='b', licence='l', source='s', check=needs_size)\n"
        "def sized(samples):\n"
        "    return [row['size'] for row in samples.metadata]\n"
    )
    with pytest.raises(UserError, match=r"p.txt, row 1: reward 'mine' can't use it: there is no size"):
        Scorer({"mine": RewardConfig(use="mine.py:sized")}).check([Prompt(0, "a", {"prompt": "a"})], "p.txt")
