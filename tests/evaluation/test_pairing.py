"""Which prompt belongs to which picture: by names, by place where the order is certain, else a sentence with names and counts."""

import json
import os

import pytest
from PIL import Image

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.evaluation.sheet.source import read_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(*names, folder="pics"):
    """Each with the grey of its place."""
    for i, name in enumerate(names):
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        Image.new("RGB", (4, 4), (i,) * 3).save(f"{folder}/{name}")


def rows(*found, name="rows.jsonl"):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in found)
    return name


def named(*names):
    return rows(*({"prompt": f"of {name}", "image": name} for name in names))


def texts(count):
    return rows(*({"prompt": f"prompt {i}"} for i in range(count)))


def paired(source="pics", prompts=None):
    return {os.path.relpath(item.content, "pics"): item.prompt for item in read_source(source, prompts)}


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.png" for i in range(12)],
        [f"{i:05d}.png" for i in range(12)],
        [f"sample-{i}-final.jpg" for i in (1, 2, 10, 11)],
        ["0_1.png", "0_2.png", "0_10.png", "1_0.png", "10_0.png"],
        ["cat 2.png", "cat 10.png", "dog 1.png"],
        ["1.png", "2.jpg", "10.webp"],
        ["apple.png", "pear.png", "plum.png"],
        ["2026-01-02.png", "2026-01-10.png", "2026-02-01.png"],
    ],
)
def test_rows_belong_to_files_in_the_order_of_their_numbers(folder, names):
    pictures(*names)
    assert list(paired(prompts=texts(len(names))).items()) == [(name, f"prompt {i}") for i, name in enumerate(names)]


@pytest.mark.parametrize(
    "names, pair",
    [
        (["1.png", "01.png", "2.png"], "'01.png' and '1.png'"),
        (["a.png", "A.png"], "'A.png' and 'a.png'"),
        (["a.png", "B.png"], "'a.png' and 'B.png'"),
        (["1.png", "1.jpg"], "'1.jpg' and '1.png'"),
        (["cfg 0.5.png", "cfg 0.10.png"], "'cfg 0.5.png' and 'cfg 0.10.png'"),
        (["-1.png", "-2.png"], "'-1.png' and '-2.png'"),
        (["10ab.png", "9abc.png"], "'9abc.png' and '10ab.png'"),
        (["a.png", "a-1.png"], "'a-1.png' and 'a.png'"),
    ],
)
def test_an_order_that_is_not_certain_is_refused(folder, names, pair):
    pictures(*names)
    with pytest.raises(UserError, match=f"not certain which of {pair} comes first; name each row's file in a column 'image'"):
        paired(prompts=texts(len(names)))
    assert paired(prompts=named(*names)) == {name: f"of {name}" for name in names}


def test_files_of_several_folders_have_no_order(folder):
    pictures("a/1.png", "b/1.png")
    with pytest.raises(UserError, match="the samples lie in 2 folders, which have no order"):
        paired(prompts=texts(2))
    assert paired(prompts=named("b/1.png", "a/1.png")) == {"a/1.png": "of a/1.png", "b/1.png": "of b/1.png"}


def test_rows_of_two_files_keep_their_order(folder):
    pictures("10.png", "2.png")
    source = rows({"image": "pics/10.png"}, {"image": "pics/2.png"}, name="samples.jsonl")
    assert paired(source, texts(2)) == {"10.png": "prompt 0", "2.png": "prompt 1"}


@pytest.mark.parametrize("name", ["2.png", "./pics/2.png", "pics/2.png", "../{}/pics/2.png"])
def test_a_row_names_its_file_by_any_end_of_its_path(folder, name):
    pictures("2.png", "10.png")
    prompts = rows({"prompt": "ten", "image": "10.png"}, {"prompt": "two", "image": name.format(folder.name)})
    assert paired(prompts=prompts) == {"2.png": "two", "10.png": "ten"}


def test_the_longest_end_of_a_path_decides(folder):
    pictures("a.png", "deep/a.png")
    assert paired(prompts=named("deep/a.png", "a.png")) == {"a.png": "of a.png", "deep/a.png": "of deep/a.png"}


@pytest.mark.parametrize(
    "names, prompts, sentence",
    [
        (["1.png", "2.png", "3.png"], lambda: texts(2), "has 2 rows for 3 samples; give each sample its row, or name"),
        (
            ["1.png", "2.png"],
            lambda: named("1.png", "2.png", "3.png"),
            "has 1 row of 3 with no sample of their own.*row 3: 3.png",
        ),
        (["1.png", "2.png"], lambda: named("1.png"), r"has no row for 1 sample of 2 \(.*2.png\)"),
        (["1.png", "2.png"], lambda: named("1.png", "2.png", "1.png"), "has several rows for 1 file: rows 1, 3 name '1.png'"),
        (["1.png", "2.png"], lambda: named("1.png", "2.png", "pics/2.png"), "has 1 row of 3 with no sample of their own"),
        (["1.png", "2.png"], lambda: named("1.png", "./1.png"), "has several rows for 1 file|has no row for 1 sample"),
        (["a/1.png", "b/1.png"], lambda: named("1.png"), r"row 1: '1.png' fits 2 files \(.*a/1.png, .*b/1.png\); write more"),
        (
            ["1.png", "2.png"],
            lambda: rows({"prompt": "p", "image": "1.png"}, {"prompt": "q"}),
            "1 of 2 rows name no file, the first is row 2",
        ),
        ([f"{i}.png" for i in range(9)], lambda: named("0.png"), "8 samples of 9 .*1.png, .*2.png, .*3.png, and 5 more"),
        (["1.png"], lambda: named("x" * 5000, "1.png"), r"has 1 row of 2 with no sample .*x\.\.\."),
        (["1.png"], lambda: named("data:image/png;base64," + "A" * 5000), "has no row for 1 sample"),
        (["1.png"], lambda: named("a\0b.png"), "has no row for 1 sample"),
    ],
)
def test_rows_and_files_that_do_not_fit_are_said_with_names_and_counts(folder, capsys, names, prompts, sentence):
    pictures(*names)
    with pytest.raises(UserError, match=sentence) as caught:
        paired(prompts=prompts())
    assert len(str(caught.value)) < 1000
    assert main(["score", "pics", "--prompts", "rows.jsonl", "--rewards", "jpeg:compressibility", "--out", "out"]) == 2
    assert capsys.readouterr().err == f"flowgrpo: {caught.value}\n" and not os.path.exists("out")


def test_all_files_have_captions_or_none_has(folder):
    pictures("1.png", "2.png", "3.png")
    assert set(paired().values()) == {""}
    for name in ("1", "3"):
        (folder / f"pics/{name}.txt").write_bytes(b"\xef\xbb\xbfa sign\xe2\x80\xa8of two\n lines \r\n")
    with pytest.raises(UserError, match=r"1 file of 3 without a prompt \(.*2.png\); give all one, in their rows or in NAME.txt"):
        paired()
    (folder / "pics/2.txt").write_text(" \n")
    with pytest.raises(UserError, match="1 file of 3 without a prompt"):
        paired()
    (folder / "pics/2.txt").write_text("two")
    assert paired() == {"1.png": "a sign\u2028of two\n lines", "2.png": "two", "3.png": "a sign\u2028of two\n lines"}
    (folder / "pics/2.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"2.txt, line 1: is not text in UTF-8"):
        paired()


def test_all_rows_have_prompts_or_none_has(folder):
    pictures("1.png", "2.png")
    with pytest.raises(UserError, match="1 file of 2 without a prompt"):
        paired(rows({"image": "pics/1.png", "prompt": "p"}, {"image": "pics/2.png"}, name="samples.jsonl"))
    with pytest.raises(UserError, match=r"1 text of 2 without a prompt \(Paris\)"):
        read_source(rows({"text": "Rome", "prompt": "Italy?"}, {"text": "Paris", "prompt": ""}, name="samples.jsonl"))


def test_a_file_counts_once_however_it_is_reached(folder):
    pictures("1.png", "2.png")
    (folder / "pics/0.png").symlink_to("1.png")
    (folder / "pics/again").symlink_to(".")
    (folder / "pics/2.PNG").symlink_to("2.png")
    assert list(paired()) == ["1.png", "2.png"]
    assert list(paired("./pics/../pics/**/*.png")) == ["1.png", "2.png"]


ABSURD = ["x" * 5000, "data:image/png;base64," + "A" * 5000, "a\0b.png", "", "/", "https://example.org/a.png"]


def test_a_row_with_an_absurd_path_costs_its_own_line_only(folder, capsys):
    pictures("1.png")
    source = rows({"image": "pics/1.png", "prompt": "p"}, *({"image": name, "prompt": "p"} for name in ABSURD), name="in.jsonl")
    command = ["score", source, "--rewards", "jpeg:compressibility", "--out", "out"]
    for _ in range(2):
        assert main(command) == 0
        found = [json.loads(line) for line in (folder / "out/scores.jsonl").read_text().splitlines()]
        assert [bool(line["scores"]) for line in found] == [True] + [False] * len(ABSURD)
        assert all("no such file" in line["errors"]["jpeg:compressibility"] for line in found[1:])
    assert main(["score", "x" * 5000, *command[2:]]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("flowgrpo: no pictures or clips in 'xxx")


def test_a_name_that_is_not_unicode_is_scored_like_any_other(folder):
    pictures("1.png")
    os.rename("pics/1.png", b"pics/\xff.png")
    assert main(["score", "pics", "--rewards", "jpeg:compressibility", "--out", "out"]) == 0
    assert (folder / "out/report.html").is_file()


def test_files_that_are_not_scored_are_said(folder, capsys):
    pictures("1.png", "2.png", "10.png")
    for name in ("a.svg", "b.svg", "notes.txt"):
        (folder / "pics" / name).write_text("<svg/>")
    assert list(paired()) == ["1.png", "2.png", "10.png"]
    assert capsys.readouterr().err == "flowgrpo: 'pics' has 2 files of a kind that is not read, so not scored: a.svg, b.svg\n"
    rows({"image": "2.png", "prompt": "p"}, *({"image": name, "prompt": "p"} for name in ABSURD), name="pics/samples.jsonl")
    assert paired()["2.png"] == "p"
    told = capsys.readouterr().err.splitlines()
    assert told[1] == "flowgrpo: 'pics' has 2 files in no row of samples.jsonl, so not scored: 1.png, 10.png"
