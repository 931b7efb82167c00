"""Rewards of text: their known answers, and what they say to a prompt row that lacks what they need."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts.sudoku import generate, grids
from flowgrpo.rewards import arithmetic, maths, sudoku
from flowgrpo.rewards._answer import answer
from flowgrpo.rewards._tokens import DEPTH
from flowgrpo.rewards.arithmetic import countdown, countdown_strict, countdown_valid
from flowgrpo.rewards.maths import Maths, exact
from flowgrpo.rewards.text import Entropy, Format, Length, xml_answer


@dataclass
class Texts:
    texts: list[str]
    metadata: list[dict[str, Any]]


def score(reward, text: str, row: dict[str, Any] | None = None) -> float:
    (value,) = reward(Texts([text], [row or {}]))
    return value


def test_the_last_answer_block_is_the_answer():
    assert answer("<answer>1</answer> no, <answer> 2 </answer> done") == "2"
    assert answer(" 1 + 2 ") == "1 + 2"
    assert answer("</answer> 3 <answer>") == "</answer> 3 <answer>"


COUNTDOWN = {"numbers": [3, 5, 7, 7], "target": 24}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>(7 - 5) * (7 + 3) + 4</answer>", 0.0),
        ("3 * (5 + 7) - 7", 0.1),
        ("(5 - 3) * (7 + 7)", 0.1),
        ("7 + 7 + 5 * (3 - 1)", 0.0),
        ("7 + 7 + 3 * 5", 0.1),
        ("I think <answer>(7 - 5) + 7 + 3</answer>", 0.1),
        ("3 / (7 - 7) + 5", 0.1),
        ("3 + 5 + 7 + 7 +", 0.0),
        ("3 + 5 + 77", 0.0),
        ("3 ** 5 + 7 + 7", 0.0),
        ("__import__('os')", 0.0),
        ("", 0.0),
    ],
)
def test_countdown_of_wrong_expressions(text, expected):
    assert score(countdown, text, COUNTDOWN) == expected
    assert score(countdown_strict, text, COUNTDOWN) == 0.0
    assert score(countdown_valid, text, COUNTDOWN) == float(expected > 0.0)


@pytest.mark.parametrize("text", ["8 / (3 - 8 / 3)", "<answer> 8/(3-8/3) </answer>", "-8 / (8 / 3 - 3)"])
def test_countdown_is_exact_where_floats_are_not(text):
    row = {"numbers": [3, 3, 8, 8], "target": 24}
    assert [score(reward, text, row) for reward in (countdown, countdown_strict, countdown_valid)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("text", ["(" * 100 + "1" + ")" * 100, "-" * 150 + "1", "1+" * 150 + "1", "((1)", "1 2", "²"])
def test_what_is_too_deep_too_long_or_malformed_is_no_expression(text):
    assert arithmetic.parse(text) is None


TREES = st.recursive(
    st.integers(0, 99),
    lambda trees: st.tuples(trees, st.sampled_from("+-*/"), trees) | st.tuples(st.just("-"), trees),
    max_leaves=8,
)


def printed(tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    return f"({' '.join(part if isinstance(part, str) else printed(part) for part in tree)})"


def leaves(tree) -> list[int]:
    return [tree] if isinstance(tree, int) else [leaf for part in tree if not isinstance(part, str) for leaf in leaves(part)]


def evaluated(tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    if len(tree) == 2:
        return -evaluated(tree[1])
    a, operator, b = evaluated(tree[0]), tree[1], evaluated(tree[2])
    return {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[operator](b)


@given(TREES)
def test_a_printed_tree_evaluates_like_fractions(tree):
    text = printed(tree)
    assume(len(text) <= arithmetic.LENGTH and text.count("(") < DEPTH / 2)
    try:
        expected = evaluated(tree)
    except ZeroDivisionError:
        expected = None
    parsed = arithmetic.parse(text)
    assert parsed == arithmetic.Expression(tuple(leaves(tree)), expected)
    assert maths.value(maths.normalise(text)) == expected


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.data())
def test_without_brackets_precedence_and_order_are_python_s(numbers, data):
    operators = [data.draw(st.sampled_from("+-*")) for _ in numbers[1:]]
    text = str(numbers[0]) + "".join(f"{operator}{number}" for operator, number in zip(operators, numbers[1:], strict=True))
    assert arithmetic.parse(text).value == eval(text) == maths.value(text)


def test_there_are_288_grids_and_all_are_solutions():
    assert len(grids()) == len(set(grids())) == 288
    assert all(score(sudoku.solved, grid, {"puzzle": "0" * 16}) == 1.0 for grid in grids())


@pytest.mark.parametrize("blanks", [1, 6, 16])
def test_a_generated_puzzle_has_its_blanks_and_a_solution(blanks):
    rng = np.random.default_rng(blanks)
    for _ in range(20):
        row = generate(rng, blanks)
        assert row["puzzle"].count("0") == blanks
        assert any(score(sudoku.solved, grid, row) == 1.0 for grid in grids())


def test_puzzles_keep_to_the_grids_of_their_split():
    grid = grids()[7]
    row = generate(np.random.default_rng(0), 5, [grid])
    assert score(sudoku.solved, f"<answer>{grid}</answer>", row) == 1.0


SUDOKU = {"puzzle": "1234341221430000"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so <answer>1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1</answer>", 1.0),
        ("1234341221434321", 1.0),
        ("4234341221434321", 0.0),
        ("123434122143432", 0.0),
        ("1234 3412 2143 4321, 16 digits", 0.0),
        ("", 0.0),
    ],
)
def test_sudoku_wants_16_digits_and_the_givens(text, expected):
    assert score(sudoku.cells, text, SUDOKU) == score(sudoku.solved, text, SUDOKU) == expected


def test_sudoku_cells_counts_the_blanks_without_a_conflict():
    assert score(sudoku.cells, "1234341221434322", SUDOKU) == 0.5
    assert score(sudoku.cells, "1234341221434300", SUDOKU) == 0.5
    assert score(sudoku.cells, "1234341221434391", SUDOKU) == 0.75
    assert score(sudoku.solved, "1234341221434391", SUDOKU) == 0.0


def test_sudoku_refuses_an_impossible_number_of_blanks():
    with pytest.raises(UserError, match="1 to 16 blanks, not 17"):
        generate(np.random.default_rng(0), 17)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{3}, or rather \boxed{\dfrac{\sqrt{16}}{8}}", "1/2"),
        (r"\boxed{\left( 1,234 \right)}.", "1234"),
        (r"\boxed{1{,}234{,}567}", "1234567"),
        (r"\boxed{12\text{ cm}}", "12"),
        (r"\boxed{50\%}", "50"),
        (r"\boxed{\$5.00}", "5"),
        (r"\boxed{2 \cdot 3^{2}}", "18"),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}"),
        (r"\boxed{3\frac12}", "7/2"),
        (r"\boxed{-\frac{6}{4}}", r"-\frac{3}{2}"),
        (r"\boxed{2^{-1}}", ".5"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{\text{Friday}}", "Friday"),
        (r"\boxed{x^2 + 1}", "x^2+1"),
        (r"\boxed{9^9^9^9}", "9 ^ 9 ^ 9 ^ 9"),
        ("<answer>$42$.</answer>", "42"),
        ("it costs 3 for 7, so 1,024 in all", "1024"),
        ("1/2 plus 1/4 is 3/4.", "0.75"),
        ("that is 5-3", "3"),
        ("that is -3", "-3"),
        ("so 72", "48/2 = <<48/2=24>>24 clips, 48+24 = 72.\n#### 72"),
        ("1,000", "half of 2,000\n#### 1,000"),
        (r"\boxed{\frac{1}{2}}", r"We divide $1$ by $2$, so it is $\boxed{\frac12}$. The other answer, 7, is no answer."),
    ],
)
def test_maths_accepts(text, right):
    assert score(exact, text, {"answer": right}) == 1.0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (r"\boxed{0.333}", "1/3"),
        (r"\boxed{9^9^9^9}", "1"),
        (r"\boxed{((9^99)^99)^99}", "1"),
        (r"\boxed{1/0}", "1"),
        (r"\boxed{\sqrt{-4}}", "2"),
        (r"\boxed{4}, hence 5", "5"),
        (r"\boxed{\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{" + "(" * 90 + "1" + ")" * 90 + "}", "1"),
        ("<answer></answer> 5", "5"),
        ("no number", "5"),
        ("", "5"),
        ("24", "48/2 = 24 clips, 48+24 = 72.\n#### 72"),
        ("7", r"so it is $\boxed{3}$, not 7"),
    ],
)
def test_maths_refuses(text, right):
    assert score(exact, text, {"answer": right}) == 0.0


def test_maths_of_huge_numbers_does_not_break():
    assert maths.value("10^400") is None
    assert score(exact, r"\boxed{10^{299}\sqrt{2}}", {"answer": "10^299"}) == 0.0


def test_a_box_can_be_required():
    boxless = "the answer is 5"
    assert score(Maths(), boxless, {"answer": "5"}) == 1.0
    assert score(Maths(require_boxed=True), boxless, {"answer": "5"}) == 0.0
    assert score(Maths(require_boxed=True), r"\boxed{5}", {"answer": "5"}) == 1.0


@given(st.text(alphabet=r"0123456789+-*/^(){}.\ fracsqtboxed", max_size=60))
def test_no_text_breaks_the_parsers(text):
    assert score(exact, text, {"answer": r"\sqrt{2}"}) in (0.0, 1.0)
    assert score(countdown, text, COUNTDOWN) in (0.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("reward", "row", "says"),
    [
        (countdown, {"numbers": [1]}, "must hold 'target': an integer"),
        (countdown_strict, {"target": 1}, "must hold 'numbers': a list of integers"),
        (countdown_valid, {"numbers": ["1"], "target": 1}, "must hold 'numbers': a list of integers"),
        (countdown, {"numbers": [1], "target": "1"}, "must hold 'target': an integer"),
        (sudoku.solved, {}, "must hold 'puzzle': 16 digits"),
        (sudoku.cells, {"puzzle": "12"}, "must hold 'puzzle': 16 digits"),
        (sudoku.cells, {"puzzle": "1234341221434321"}, "with at least one blank"),
        (exact, {}, "must hold 'answer': the right answer as text"),
        (exact, {"answer": 5}, "must hold 'answer': the right answer as text"),
        (exact, {"answer": " "}, "must hold 'answer': the right answer as text"),
        (exact, {"answer": "72 ####"}, "must hold 'answer': the right answer as text"),
    ],
)
def test_a_row_without_what_a_reward_needs_is_refused(reward, row, says):
    with pytest.raises(UserError, match=says):
        score(reward, "1", row)


def test_format_is_a_match_of_the_whole_text():
    reward = Format(r"<b>.*</b>")
    assert [score(reward, text) for text in ("<b>one\ntwo</b>", "<b>one</b> two", "")] == [1.0, 0.0, 0.0]


def test_entropy_is_that_of_the_different_words_or_characters_in_bits():
    words, characters = Entropy(), Entropy(of="characters")
    assert [score(words, text) for text in ("", "a a a", "a b", "a b c d", "a a b b")] == [0.0, 0.0, 1.0, 2.0, 1.0]
    assert score(words, "a a a b") == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)
    assert score(characters, "abca") == pytest.approx(1.5)
    with pytest.raises(UserError, match="of 'words' or of 'characters', not of 'letters'"):
        Entropy(of="letters")


def test_format_refuses_what_is_no_regular_expression():
    with pytest.raises(UserError, match="is no regular expression"):
        Format("(")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<reasoning>\nwhy\n</reasoning>\n<answer>\n42\n</answer>\n", 1.0),
        ("<reasoning></reasoning><answer></answer>", 1.0),
        ("<answer>42</answer><reasoning>why</reasoning>", 0.0),
        ("<reasoning>why</reasoning> so <answer>42</answer>", 0.0),
        ("<reasoning>why</reasoning><answer>42</answer><answer>43</answer>", 0.0),
        ("<answer>42</answer>", 0.0),
    ],
)
def test_xml_answer_is_exactly_the_two_blocks(text, expected):
    assert score(xml_answer, text) == expected


def test_length_falls_off_linearly():
    reward = Length(target=4, width=2)
    assert [score(reward, "word " * words) for words in (2, 3, 4, 5, 9)] == [0.0, 0.5, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("arguments", [(-1, 2), (4, 0)])
def test_length_refuses_what_is_no_length(arguments):
    with pytest.raises(UserError, match="a length needs"):
        Length(*arguments)
