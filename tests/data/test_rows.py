"""Prompt files as spreadsheets, editors and programs write them: what was written is read, or a sentence says where not."""

import csv
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import load_prompts
from flowgrpo.data.rows import read_rows

ODD = "a sign\u2028that\x85says\x0cHELLO\x1c\x0b"


def loaded(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return [(prompt.text, prompt.metadata) for prompt in load_prompts(str(tmp_path / name))]


def texts(*arguments):
    return [text for text, _ in loaded(*arguments)]


@pytest.mark.parametrize("mark, encoding", [("", "utf-8"), ("\ufeff", "utf-8"), ("\ufeff", "utf-16-le"), ("\ufeff", "utf-32-be")])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "name, lines",
    [
        ("p.txt", ["a red circle", "café"]),
        ("p.csv", ["prompt", "a red circle", "café"]),
        ("p.tsv", ["prompt\ttag", "a red circle\tx", "café\ty"]),
        ("p.jsonl", ['{"prompt": "a red circle"}', '{"prompt": "café"}']),
        ("p.json", ["[", '{"prompt": "a red circle"},', '{"prompt": "café"}', "]"]),
    ],
)
def test_marks_and_line_ends_are_no_part_of_prompts(tmp_path, mark, encoding, end, name, lines):
    content = (mark + end.join([*lines, ""])).encode(encoding)
    assert texts(tmp_path, name, content) == ["a red circle", "café"]
    assert texts(tmp_path, name.upper() + ".gz", gzip.compress(content)) == ["a red circle", "café"]


def test_a_prompt_ends_at_line_ends_only(tmp_path):
    assert texts(tmp_path, "p.txt", f"{ODD}\n\n  b \t\n".encode()) == [ODD, "b"]
    assert texts(tmp_path, "p.csv", f"prompt,tag\n{ODD},x\n".encode()) == [ODD]
    assert texts(tmp_path, "p.jsonl", f'{{"prompt": "{ODD[:16]}"}}\n'.encode()) == [ODD[:16]]


def test_a_quoted_cell_keeps_its_line_breaks_commas_and_blanks(tmp_path):
    content = b'prompt,tag\r\n"a red\r\ncircle, on a ""table""", x \r\n'
    assert loaded(tmp_path, "p.csv", content) == [
        ('a red\r\ncircle, on a "table"', {"prompt": 'a red\r\ncircle, on a "table"', "tag": " x "})
    ]


cells = st.text(st.characters(exclude_characters="\0\ufeff", codec="utf-8"), min_size=1)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1))
def test_what_the_csv_module_writes_is_read_again(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("rows") / "p.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("prompt", "tag"), *rows])
    assert [(row["prompt"], row["tag"]) for row in read_rows(file)] == rows


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("extra_cell.csv", b"prompt,tag\nfine,x\na red circle,x,y\n", "line 3: the row has 3 cells and the header 2"),
        (
            "comma.csv",
            b"prompt\na red circle, on a table\n",
            "line 2: the row has 2 cells and the header 1; put a cell",
        ),
        ("short.csv", b'prompt,tag\n"two\nlines",x\na\n', "line 4: the row has 1 cells and the header 2"),
        (
            "semicolon.csv",
            b"prompt;tag\na red circle;x\n",
            "line 1: its only column is 'prompt;tag'; separate columns by a comma",
        ),
        ("tabs.csv", b"prompt\ttag\na red circle\tx\n", "its only column is"),
        ("commas.tsv", b"prompt,tag\na red circle,x\n", "its only column is"),
        ("nameless.csv", b",prompt\n0,a\n", "line 1: column 1 has no name"),
        ("blank.csv", b"prompt, tag\na, x\n", "line 1: the column ' tag' begins or ends with a blank"),
        ("twice.csv", b"prompt,prompt\na,b\n", "line 1: the column 'prompt' is there twice"),
        ("open.csv", b'prompt\n"a red circle\n', "unexpected end of data"),
        ("behind.csv", b'prompt\n"a" red circle\n', "expected after"),
        ("huge.csv", b"prompt\n" + b"a" * 200_000 + b"\n", "line 2: field larger than field limit"),
        ("latin1.txt", "fine\ncaf\u00e9\n".encode("latin-1"), "line 2: is not text in UTF-8; save the file as UTF-8"),
        ("latin1.csv", "prompt\ncaf\u00e9\n".encode("latin-1"), "line 2: is not text in UTF-8"),
        ("markless.txt", "a red circle".encode("utf-16-le"), "line 1: holds a zero byte"),
        ("odd.txt", "a red circle\n".encode("utf-16")[:-1], "is not text in UTF-16"),
        ("joined.txt", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", "line 2: holds a byte order mark"),
        ("cut.txt.gz", gzip.compress(b"a red circle\n" * 9, mtime=0)[:-9], "can't be unpacked"),
        ("none.jsonl.gz", b'{"prompt": "a"}\n', "can't be unpacked"),
        ("bad.txt.gz", gzip.compress(b"a red circle\n" * 9, mtime=0)[:12] + b"\xff" * 30, "can't be unpacked"),
        (
            "nan.jsonl",
            b'{"prompt": "a", "x": 1}\n\n{"prompt": "a", "x": NaN}\n',
            "line 3: not valid JSON (NaN is no number in JSON",
        ),
        ("inf.json", b'[{"prompt": "a", "x": {"y": [-Infinity]}}]', "-Infinity is no number in JSON"),
        ("large.jsonl", b'{"prompt": "a", "x": 1e999}\n', "1e999 is no number in JSON"),
        ("key.jsonl", b'{"prompt": "a", "prompt": "b"}\n', "line 1: not valid JSON (the key 'prompt' is there twice)"),
        ("deep_key.jsonl", b'{"prompt": "a", "x": [{"y": 1, "y": 2}]}\n', "the key 'y' is there twice"),
        ("half.jsonl", b'{"prompt": "a \\ud83d"}\n', "surrogates not allowed"),
        ("nested.jsonl", b"[" * 100_000 + b"\n", "line 1: not valid JSON"),
        ("digits.jsonl", b'{"prompt": "a", "x": ' + b"1" * 5000 + b"}\n", "line 1: not valid JSON"),
        ("list.jsonl", b'["a"]\n', "line 1: must be an object"),
        ("object.json", b'{"prompt": "a"}', "must hold a list of objects"),
        ("strings.json", b'["a"]', "row 1: must be an object"),
        ("p.yaml", b"prompt: a\n", "must end in .txt, .csv, .tsv, .jsonl or .json, or one of these and .gz"),
        ("p.gz", b"", "must end in .txt"),
    ],
)
def test_what_is_not_exact_is_one_sentence_with_its_line(tmp_path, capsys, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_prompts(str(tmp_path / name))
    assert sentence in str(caught.value) and str(tmp_path / name) in str(caught.value)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["score", str(tmp_path), "--prompts", str(tmp_path / name), "--rewards", "brisque", "--out", "out"]) == 2
    assert capsys.readouterr().err == f"flowgrpo: {caught.value}\n"


def test_pairs_of_surrogates_are_one_character(tmp_path):
    assert texts(tmp_path, "p.jsonl", b'{"prompt": "a \\ud83d\\ude00"}\n') == ["a \U0001f600"]


ABSURD = ["x" * 5000, "data:image/png;base64," + "A" * 5000, "a\0b.png", "", ".", "nowhere.png", ["nowhere.png"]]


@pytest.mark.parametrize("name", ABSURD, ids=range(len(ABSURD)))
def test_a_row_that_names_no_file_is_found_when_it_is_read(tmp_path, name):
    rows = [{"prompt": "p"}] * 153 + [{"prompt": "p", "image": name}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"p.jsonl, row 154: image: .* does not exist as a file; paths") as caught:
        load_prompts(str(tmp_path / "p.jsonl"))
    assert len(str(caught.value)) < 500
    assert len(load_prompts(str(tmp_path / "p.jsonl"), conditions=False)) == 154


def test_a_path_that_can_not_be_is_no_prompt_file():
    with pytest.raises(UserError, match="does not exist"):
        load_prompts("x" * 5000 + ".txt")
