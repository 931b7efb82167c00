"""The official formats of benchmarks in a few rows, and what is made of their scores."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.eval import _official, dpg_bench, drawbench, hpdv2, partiprompts, pick_a_pic, t2i_compbench, unigenbench
from flowgrpo.eval._preferences import PREFERENCES
from flowgrpo.rewards.checklist import holding
from flowgrpo.scoring.card import card_of
from flowgrpo.scoring.scorer import Scorer, find_reward

MODULES = (dpg_bench, drawbench, hpdv2, partiprompts, pick_a_pic, t2i_compbench, unigenbench)


def scores_of(prompts, metric, values):
    """Of each preference model zeros, except of the metric."""
    return {label: np.zeros(len(prompts)) for label in PREFERENCES} | {metric: np.array(values)}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_missing_file_brings_the_sentence_that_says_where_it_is(module, tmp_path):
    with pytest.raises(UserError, match=r"do not ship with flowgrpo; .*, and give the path with --file"):
        module.benchmark.load(None)
    with pytest.raises(UserError, match=r"nowhere.* does not exist; (get|save|export) "):
        module.benchmark.load(tmp_path / "nowhere")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_metric_is_one_of_the_rewards(module):
    assert module.benchmark.metric in module.benchmark.rewards


def test_a_checksum_that_differs_is_refused(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n")
    right = hashlib.sha256(b"a cat\n").hexdigest()
    assert _official.official(file, 1, right, "get it") == file
    assert _official.official(str(file), None, None, "get it") == file
    with pytest.raises(UserError, match=f"not the official file: its sha256 is {right}, not 00; get it"):
        _official.official(file, 1, "00", "get it")


def test_a_name_on_the_hub_needs_an_owner_and_is_asked_for_as_a_dataset(monkeypatch, tmp_path):
    asked = {}

    def downloaded(name, **arguments):
        asked.update(arguments, name=name)
        return str(tmp_path)

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.json").write_text("[]")
    monkeypatch.setattr(_official, "snapshot_download", downloaded)
    file = _official.official(_official.member(Path("hf:owner/name/folder@v1"), "x.json"), None, None, "get it")
    assert file == tmp_path / "folder" / "x.json"
    assert asked["name"] == "owner/name" and asked["repo_type"] == "dataset" and asked["revision"] == "v1"
    assert asked["allow_patterns"] == ["folder/x.json", "folder/x.json/*"]
    with pytest.raises(UserError, match="must have the form hf:OWNER/NAME"):
        _official.official("hf:owner", None, None, "get it")


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(_official, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"'hf:owner/name' can't be had from the hub \(ConnectionError\); download it"):
        _official.official("hf:owner/name", None, None, "get it")


DRAWBENCH = 'Prompts,Category\nA red colored car.,Colors\n"A stack of 3 plates, in blue.",DALL-E\nA blue dog.,Colors\n'


def test_drawbench_is_a_csv_of_prompts_and_categories(tmp_path):
    file = tmp_path / "drawbench.csv"
    file.write_text(DRAWBENCH)
    prompts = drawbench.load(file, count=3)
    assert [prompt.text for prompt in prompts] == ["A red colored car.", "A stack of 3 plates, in blue.", "A blue dog."]
    figures = drawbench.figures(prompts, scores_of(prompts, "pickscore", [20.0, 21.0, 24.0]))
    assert figures["pickscore"] == pytest.approx(65 / 3) and figures["hps"] == 0.0
    assert figures["pickscore/Colors"] == 22.0 and figures["pickscore/DALL-E"] == 21.0


def test_another_number_of_prompts_than_the_official_file_has_is_refused(tmp_path):
    file = tmp_path / "drawbench.csv"
    file.write_text(DRAWBENCH)
    with pytest.raises(UserError, match="holds 3 prompts instead of 200; get the official file anew"):
        drawbench.benchmark.load(file)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("prompt,Category\na,b\n", "has no column 'Prompts'; the official file has Prompts, Category"),
        ("Prompts,Category\n , b\n", "prompt 1: the prompt is empty"),
        ("Prompts,Category\n", "holds 0 prompts instead of at least one"),
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path, text, complaint):
    file = tmp_path / "drawbench.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=complaint):
        drawbench.load(file, count=None)


def test_a_folder_or_bytes_in_place_of_a_text_are_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder, but must be the official file"):
        drawbench.load(tmp_path)
    (tmp_path / "x.csv").write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(UserError, match="is not text in UTF-8"):
        drawbench.load(tmp_path / "x.csv")


def test_partiprompts_keep_their_quotation_marks(tmp_path):
    file = tmp_path / "PartiPrompts.tsv"
    rows = ["Prompt\tCategory\tChallenge\tNote", '"Fly" is written\tArts\tWriting & Symbols\t', "bond\tAbstract\tBasic\ta note"]
    file.write_text("\n".join(rows) + "\n")
    prompts = partiprompts.load(file, count=2)
    assert prompts[0].text == '"Fly" is written'
    assert prompts[1].metadata == {"prompt": "bond", "category": "Abstract", "challenge": "Basic", "note": "a note"}
    figures = partiprompts.figures(prompts, scores_of(prompts, "pickscore", [1.0, 3.0]))
    assert figures["pickscore"] == 2.0
    assert figures["pickscore/Arts"] == figures["pickscore/Writing & Symbols"] == 1.0
    assert figures["pickscore/Abstract"] == figures["pickscore/Basic"] == 3.0
    with pytest.raises(UserError, match="2 prompts instead of 1632"):
        partiprompts.benchmark.load(file)


def test_pick_a_pic_is_an_export_of_captions(tmp_path):
    file = tmp_path / "pick_a_pic.jsonl"
    rows = [{"caption": "a dog\nin two lines", "user_id": 1}, {"caption": "Füchse", "user_id": 2}]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert [prompt.text for prompt in pick_a_pic.load(file, count=2)] == ["a dog\nin two lines", "Füchse"]
    with pytest.raises(UserError, match="2 prompts instead of 500"):
        pick_a_pic.benchmark.load(file)
    file.write_text('{"prompt": "a dog"}')
    with pytest.raises(UserError, match=r"row 1: must be an object with a text under 'caption'"):
        pick_a_pic.load(file)


def test_hpdv2_is_a_list_of_prompts_a_style(tmp_path):
    for style in hpdv2.STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} one", f"{style} two"]))
    prompts = hpdv2.load(tmp_path, each=2)
    assert [prompt.metadata["style"] for prompt in prompts[::2]] == list(hpdv2.STYLES)
    figures = hpdv2.figures(prompts, scores_of(prompts, "hps", [0.1, 0.3, 0.2, 0.2, 0.4, 0.4, 0.0, 0.2]))
    assert figures["hps"] == pytest.approx(0.225)
    assert figures["hps/anime"] == pytest.approx(0.2) and figures["hps/photo"] == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"anime.json holds 2 prompts instead of 800"):
        hpdv2.benchmark.load(tmp_path)
    (tmp_path / "photo.json").write_text('{"prompt": "a"}')
    with pytest.raises(UserError, match=r"photo.json must be a list of prompts"):
        hpdv2.load(tmp_path, each=2)
    (tmp_path / "photo.json").write_text("[")
    with pytest.raises(UserError, match=r"photo.json: not valid JSON"):
        hpdv2.load(tmp_path, each=2)


def test_published_means_of_styles_are_the_published_average():
    for published in hpdv2.benchmark.published.values():
        styles = [published[f"hps/{style}"] for style in hpdv2.STYLES]
        assert np.mean(styles) == pytest.approx(published["hps"], abs=1e-4)


COMPOSITION = {
    "color": ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
    "shape": ("an oval sink and a rectangular mirror.", ["an oval sink", "a rectangular mirror"]),
    "texture": ("rubber gloves and leather gloves", ["rubber gloves and leather gloves"]),
    "spatial": ("a bee on the top of a bicycle", ["a bee", "a bicycle", "a bee on the top of a bicycle"]),
    "non_spatial": ("A dog and a cat sleep.", ["A dog and a cat sleep"]),
    "complex": ("The red hat was on top of the brown coat rack.", ["The red hat was on top of the brown coat rack"]),
}


def test_t2i_compbench_asks_about_each_thing_and_relation(tmp_path):
    for category, (prompt, _) in COMPOSITION.items():
        (tmp_path / f"{category}_val.txt").write_text(f"{prompt}\n\n")
    prompts = t2i_compbench.load(tmp_path, each=1)
    for prompt, (category, (text, parts)) in zip(prompts, COMPOSITION.items(), strict=True):
        assert prompt.text == text and prompt.metadata["category"] == category
        assert prompt.metadata["questions"] == [f'Does the picture show this: "{part}"?' for part in parts]
    scores = {"questions": np.array([1.0, 0.5, 0.0, 1.0, 1.0, 1.0]), "clip_score": np.full(6, 0.3)}
    figures = t2i_compbench.figures(prompts, scores)
    assert figures["questions"] == 0.75 and figures["questions/shape"] == 0.5
    assert figures["clip_score/non_spatial"] == pytest.approx(0.3)
    with pytest.raises(UserError, match=r"color_val.txt holds 1 prompts instead of 300"):
        t2i_compbench.benchmark.load(tmp_path)


DPG_HEAD = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n"
DPG_ROWS = """12,x,,1,0,entity,whole,entity - whole (ladder),Is there a ladder?
12,x,,2,1,attribute,color,"attribute - color (ladder, silver)",Is the ladder silver?
12,x,,3,"1, 2",relation,spatial,"relation - spatial (ladder, wall, against)",Is it against a wall?
parti3,y,,1,0,global,,global - (photo),Is it a photo?
"""


@pytest.fixture
def dpg(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "12.txt").write_text("A silver ladder against a wall.")
    (tmp_path / "prompts" / "parti3.txt").write_text("A photo of nothing.\n")
    (tmp_path / "dpg_bench.csv").write_text(DPG_HEAD + DPG_ROWS)
    return tmp_path


def test_dpg_bench_is_prompts_with_a_graph_of_questions(dpg):
    ladder, photo = dpg_bench.load(dpg, count=2)
    assert ladder.text == "A silver ladder against a wall." and ladder.metadata["item"] == "12"
    assert ladder.metadata["questions"] == ["Is there a ladder?", "Is the ladder silver?", "Is it against a wall?"]
    assert ladder.metadata["categories"] == ["entity", "attribute", "relation"]
    assert ladder.metadata["parents"] == [[], [0], [0, 1]]
    assert photo.metadata["categories"] == ["global"] and photo.metadata["parents"] == [[]]
    with pytest.raises(UserError, match="2 prompts instead of 1065"):
        dpg_bench.benchmark.load(dpg)


def test_dpg_bench_reports_answers_by_category_over_all_pictures(dpg):
    ladder, photo = dpg_bench.load(dpg, count=2)
    counts = {"entity": [1, 0, 0], "attribute": [1, 1, 0], "relation": [0, 0, 0], "global": [0, 0, 1], "other": [0, 0, 0]}
    scores = {"dpg": np.array([0.5, 0.0, 1.0])} | {label: np.array(values, float) for label, values in counts.items()}
    expected = {"dpg": 0.5, "global": 1.0, "entity": 0.5, "attribute": 1.0, "relation": 0.0}
    assert dpg_bench.figures([ladder, ladder, photo], scores) == expected


def test_dpg_bench_refuses_rows_that_it_cannot_read_and_prompts_without_questions(dpg):
    (dpg / "dpg_bench.csv").write_text(DPG_HEAD + DPG_ROWS.replace('"1, 2"', "one"))
    with pytest.raises(UserError, match="row 3: proposition_id must be a number and dependency a list of such"):
        dpg_bench.load(dpg, count=2)
    (dpg / "dpg_bench.csv").write_text(DPG_HEAD + DPG_ROWS.partition("parti3")[0])
    with pytest.raises(UserError, match=r"no questions for prompts/parti3.txt"):
        dpg_bench.load(dpg, count=2)


def unigen_row(number, prompt, points, descriptions):
    stated = json.dumps({"Subjects": "Animal", "Testpoints": points, "Testpoint Description": descriptions})
    return f'{number},"{prompt}","{stated.replace(chr(34), 2 * chr(34))}"\n'


def test_unigenbench_has_test_points_in_dimensions(tmp_path):
    file = tmp_path / "test_prompts_en.csv"
    rows = [
        unigen_row(0, "two pandas in ink", ["Style", "Attribute - Quantity"], ["classical ink", "two pandas"]),
        unigen_row(1, "a red box", ["Attribute - Color", "Entity Layout - Two-Dimensional Space"], ["red", "a box"]),
    ]
    file.write_text("index,prompt_en,sub_dims_en\n" + "".join(rows))
    prompts = unigenbench.load(file, count=2)
    assert [prompt.metadata["categories"] for prompt in prompts] == [["Style", "Attribute"], ["Attribute", "Entity Layout"]]
    first = prompts[0].metadata["questions"][1]
    assert "two pandas in ink" in first and "attribute - quantity" in first and '"two pandas"' in first
    scores = {label: np.zeros(2) for label in unigenbench.benchmark.rewards}
    scores |= {"Style": np.array([1.0, 0.0]), "Attribute": np.array([0.0, 1.0]), "points": np.array([0.5, 0.5])}
    figures = unigenbench.figures(prompts, scores)
    assert figures == {"overall": 0.5, "points": 0.5, "Style": 1.0, "Attribute": 0.5, "Entity Layout": 0.0}
    with pytest.raises(UserError, match="2 prompts instead of 600"):
        unigenbench.benchmark.load(file)


@pytest.mark.parametrize(
    "points, descriptions, complaint",
    [
        (["Style", "Action - State"], ["ink"], "prompt 7: sub_dims_en needs 'Testpoints' and as many"),
        (["Weather"], ["rain"], "prompt 7: 'Weather' is no dimension"),
    ],
)
def test_unigenbench_refuses_points_that_it_cannot_read(tmp_path, points, descriptions, complaint):
    file = tmp_path / "test_prompts_en.csv"
    file.write_text("index,prompt_en,sub_dims_en\n" + unigen_row(7, "a", points, descriptions))
    with pytest.raises(UserError, match=complaint):
        unigenbench.load(file, count=1)


@pytest.mark.parametrize(
    "answers, parents, held",
    [
        ([1, 1, 1], [[], [0], [0, 1]], [1, 1, 1]),
        ([0, 1, 1, 1], [[], [0], [1], []], [0, 0, 0, 1]),
        ([1, 0, 1, 1], [[], [0], [0, 1], [2]], [1, 0, 0, 0]),
        ([1, 1, 0], [[2], [], []], [0, 1, 0]),
    ],
    ids=["all hold", "a root takes its descendants along", "one parent of two is enough", "a parent that comes later counts"],
)
def test_a_question_with_a_failed_parent_fails(answers, parents, held):
    assert holding(answers, parents) == held


@pytest.fixture
def judge():
    """Where a judge is served that says no when a question has the word `silver`, and the questions that came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = request["messages"][0]["content"][-1]["text"]
            asked.append(text)
            verdict = "no" if "silver" in text else "yes"
            body = json.dumps({"choices": [{"message": {"content": verdict}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "judge"}, asked
    server.shutdown()
    server.server_close()


def pictures_of(prompts):
    rows = [prompt.metadata for prompt in prompts]
    return Samples([prompt.text for prompt in prompts], rows, list(range(len(rows))), torch.rand(len(rows), 3, 8, 8))


def test_a_benchmark_of_questions_asks_each_of_them_once(dpg, judge):
    arguments, asked = judge
    prompts = dpg_bench.load(dpg, count=2)
    rewards = {
        label: RewardConfig(use=reward.use, arguments=reward.arguments | arguments)
        for label, reward in dpg_bench.benchmark.rewards.items()
    }
    scores = Scorer(rewards)(pictures_of(prompts))
    assert scores["dpg"].tolist() == [pytest.approx(1 / 3), 1.0]
    assert scores["attribute"].tolist() == [0.0, 0.0] and scores["relation"].tolist() == [1.0, 0.0]
    assert len(asked) == 4
    figures = dpg_bench.figures(prompts, scores)
    assert figures == {"dpg": pytest.approx(2 / 3), "global": 1.0, "entity": 1.0, "attribute": 0.0, "relation": 1.0}


def test_other_pictures_are_asked_about_anew(dpg, judge):
    arguments, asked = judge
    scorer = Scorer({"share": RewardConfig(use="checklist:Share", arguments=arguments)})
    for _ in range(2):
        scorer(pictures_of(dpg_bench.load(dpg, count=2)))
    assert len(asked) == 8


@pytest.mark.parametrize(
    "use, row, key",
    [
        ("checklist:Share", {"questions": ["a?", "b?"], "parents": [[]]}, "parents"),
        ("checklist:Share", {"questions": ["a?"], "parents": [[1]]}, "parents"),
        ("checklist:Count", {"questions": ["a?"]}, "categories"),
        ("checklist:Count", {"questions": ["a?"], "categories": ["x", "y"]}, "categories"),
        ("checklist:Share", {"parents": [[]]}, "questions"),
    ],
)
def test_a_row_that_is_no_checklist_is_refused(judge, use, row, key):
    arguments = judge[0] | ({"category": "x"} if use.endswith("Count") else {})
    scorer = Scorer({"list": RewardConfig(use=use, arguments=arguments)})
    with pytest.raises(UserError, match=f"must hold '{key}'"):
        scorer(Samples(["a"], [row], [0], torch.rand(1, 3, 8, 8)))


@pytest.mark.parametrize("use", ["checklist:Share", "checklist:Count"])
def test_checklists_have_cards_that_say_what_a_row_holds(use):
    card = card_of(find_reward(use)[0])
    assert card.reads == "images" and "questions" in card.row
