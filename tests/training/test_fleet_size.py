"""Fleets on a clock against schedules that are worked out by hand, and what `flowgrpo plan --fleet` makes of measured seconds."""

import itertools
import json
import tempfile
from dataclasses import replace
from math import ceil, exp, expm1, log1p

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowgrpo.cli.main import main
from flowgrpo.config.bill import memory_of
from flowgrpo.config.run import dump, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import numpy_generator
from flowgrpo.training.fleet_size.measured import blocks_of, seconds_of, work_of
from flowgrpo.training.fleet_size.simulate import simulate
from flowgrpo.training.fleet_size.split import Plan, best_split, in_turn, least_seconds, plan_fleet, savings
from flowgrpo.training.fleet_size.table import rows_of, sentence, text
from flowgrpo.training.fleet_size.work import Assumptions, FleetSize, UpdateWork, exchange_seconds, learning_seconds

EVEN = Assumptions(spread=0.0)
FIVE = UpdateWork((5,), rollout=2.0, scoring={"a": 1.0}, learning=3.0)
LAST = pytest.approx


def seconds(work: UpdateWork, fleet: FleetSize, assumed: Assumptions = EVEN) -> float:
    return simulate(work, fleet, assumed, updates=8, before=3).seconds


def test_one_card_of_each_kind_rolls_out_then_scores_the_last_block_then_learns():
    assert seconds(FIVE, FleetSize(1, {"a": 1})) == LAST(5 * 2 + 1 + 5 * 3)


def test_the_trainer_scores_what_has_no_card_of_its_own():
    slow = replace(FIVE, scoring={"a": 4.0})
    assert seconds(slow, FleetSize(1, {"a": 0})) == LAST(2 + 5 * 4 + 5 * 3)
    assert seconds(slow, FleetSize(1, {"a": 0}, lag=1)) == LAST(5 * 4 + 5 * 3)
    assert seconds(slow, FleetSize(5, {"a": 0}, trainers=2)) == LAST(2 + 3 * 4 + 3 * 3)


@pytest.mark.parametrize("cards", range(1, 8))
def test_equal_cards_are_through_with_the_blocks_in_as_many_rounds_as_it_takes(cards):
    assert seconds(replace(FIVE, scoring={}), FleetSize(cards)) == LAST(ceil(5 / cards) * 2 + 5 * 3)


@pytest.mark.parametrize("cards", [1, 2, 5, 9])
def test_with_a_lag_of_1_an_update_takes_the_longer_of_rollout_and_learning(cards):
    """Block i is there after ceil(i / cards) x 2 s, and scored in turn once the update before is learned."""
    for learning in (0.1, 1.4, 20.0):
        work = replace(FIVE, learning=learning)
        alone = replace(work, scoring={})
        assert seconds(alone, FleetSize(cards, lag=1)) == LAST(max(ceil(5 / cards) * 2, 5 * learning))
        there = [max(5 * learning, ceil(i / cards) * 2) for i in range(1, 6)]
        expected = max(time + 5 - i for i, time in enumerate(there))
        assert seconds(work, FleetSize(cards, {"a": 1}, lag=1)) == LAST(expected)


def test_several_rewards_are_asked_at_once_and_the_last_to_answer_counts():
    work = UpdateWork((4,), rollout=1.0, scoring={"a": 1.0, "b": 5.0})
    assert seconds(work, FleetSize(1, {"a": 1, "b": 1})) == LAST(1 + 4 * 5)
    assert seconds(work, FleetSize(1, {"a": 1, "b": 2})) == LAST(1 + 5 + 1 + 5)
    assert seconds(work, FleetSize(1, {"a": 1, "b": 4})) == LAST(4 + 5)


def test_the_share_that_no_card_can_take_bounds_the_speed_up():
    """Amdahl: 100 blocks of 1 s on n cards beside 25 s of learning on one."""
    work = UpdateWork((100,), rollout=1.0, learning=0.25)
    one = seconds(work, FleetSize(1))
    for cards in (1, 2, 4, 10, 50, 100, 1000):
        assert one / seconds(work, FleetSize(cards)) == LAST(1 / (0.2 + 0.8 * ceil(100 / cards) / 100))
    assert one / seconds(work, FleetSize(1000)) < 5


def test_trainers_take_whole_blocks_of_a_minibatch_and_add_up_their_gradients_at_each_step():
    assumed = Assumptions(bandwidth=2.0)
    work = UpdateWork((5, 3), rollout=1.0, learning=3.0, epochs=2, gradient_bytes=8e9)
    assert learning_seconds(work, 1, assumed) == LAST(8 * 3)
    assert learning_seconds(work, 4, assumed) == LAST((2 + 1) * 3 + 2 * 2 * (2 * 3 / 4 * 8e9 / 2e9))
    assert exchange_seconds(1, 8e9, 2e9) == 0.0
    assert learning_seconds(work, 4, assumed, shared=True) == LAST(8 / 4 * 3 + 4 * 6)


def test_blocks_go_over_one_link_one_after_the_other():
    work = UpdateWork((6,), rollout=1.0, block_bytes=2e9)
    assert seconds(work, FleetSize(6), Assumptions(spread=0.0, bandwidth=1.0)) == LAST(1 + 6 * 2)
    assert seconds(work, FleetSize(6, trainers=9), Assumptions(spread=0.0, bandwidth=1.0)) == LAST(1 + 6 * 1)
    assert seconds(work, FleetSize(1), Assumptions(spread=0.0, bandwidth=4.0)) == LAST(6 * 1 + 0.5)


def test_weights_reach_one_node_after_the_other_and_early_ones_begin():
    """Three nodes of two cards have them after 1, 2 and 3 s; a seventh block begins where the first has ended, after 11 s."""
    assumed = Assumptions(spread=0.0, bandwidth=1.0, cards_per_node=2)
    work = UpdateWork((7,), rollout=10.0, learning=1.0, weight_bytes=1e9)
    assert seconds(work, FleetSize(6), assumed) == LAST(11 + 10 + 7)
    assert seconds(replace(work, blocks=(6,)), FleetSize(6), assumed) == LAST(13 + 6)
    assert seconds(replace(work, blocks=(2,)), FleetSize(6), assumed) == LAST(11 + 2)


def test_with_a_lag_of_1_weights_leave_when_an_update_begins():
    assumed = Assumptions(spread=0.0, bandwidth=1.0)
    work = UpdateWork((4,), rollout=10.0, learning=1.0, weight_bytes=3e9)
    assert seconds(work, FleetSize(1), assumed) == LAST(40 + 4 + 3)
    assert seconds(work, FleetSize(1, lag=1), assumed) == LAST(3 + 40)


def test_no_card_rolls_out_with_weights_that_are_too_old():
    """Of three nodes the second is told after 20 s, when the next update has begun; it must not take its block."""
    assumed = Assumptions(spread=0.0, bandwidth=1.0, cards_per_node=1)
    work = UpdateWork((1,), rollout=1.0, weight_bytes=10e9)
    assert seconds(work, FleetSize(3), assumed) == LAST(11) and seconds(work, FleetSize(1), assumed) == LAST(11)


def test_rollouts_spread_around_their_mean_as_is_assumed():
    """The blocks of update u are log-normal; with as many cards the longest counts."""
    work = UpdateWork((1000,), rollout=2.0)
    assumed = Assumptions(spread=0.3)
    variance = log1p(0.3**2)
    drawn = [
        2.0 * np.exp(variance**0.5 * numpy_generator(("fleet", "rollout", u)).standard_normal(1000) - variance / 2)
        for u in range(3, 6)
    ]
    assert np.mean(drawn) == pytest.approx(2.0, rel=0.02) and np.std(drawn) == pytest.approx(0.6, rel=0.05)
    whole, alone = (simulate(work, FleetSize(n), assumed, updates=6, before=3).seconds for n in (1000, 1))
    assert whole == LAST(np.mean(np.max(drawn, axis=1))) and alone == LAST(np.mean(np.sum(drawn, axis=1)))


def test_a_block_whose_card_is_lost_is_rolled_out_again_once_a_card_is_there():
    """A rollout of r seconds is done once no loss falls into it: (e^(rate r) - 1) / rate seconds of work, and a restart for each
    loss, of which there are e^(rate r) - 1 (Ross, renewal theory)."""
    rate, r, restart = 1 / 40.0, 20.0, 7.0
    assumed = Assumptions(spread=0.0, losses=rate * 86_400, restart=restart)
    work = UpdateWork((50,), rollout=r)
    tried = simulate(work, FleetSize(1), assumed, updates=84)
    expected = 50 * (expm1(rate * r) / rate + restart * (exp(rate * r) - 1))
    assert tried.seconds == pytest.approx(expected, rel=0.06)
    assert tried.busy["rollout"] == pytest.approx(expm1(rate * r) / rate / (expected / 50), rel=0.06)
    again = simulate(work, FleetSize(1), assumed, updates=84)
    assert again == tried


def test_a_lost_block_goes_at_once_to_another_card_that_is_free():
    """Of 60 cards none that is lost comes back; each block takes what it lost, and 10 s."""
    assumed = Assumptions(spread=0.0, losses=86_400 / 30.0, restart=1e9)

    def lasts(block: int) -> float:
        chance = numpy_generator(("fleet", "lost", 1, block))
        return sum(itertools.takewhile(lambda time: time < 10.0, iter(lambda: chance.exponential(30.0), None))) + 10.0

    longest = max(map(lasts, range(8)))
    assert longest > 10.0
    done = simulate(UpdateWork((8,), rollout=10.0), FleetSize(60), assumed, updates=2, before=1)
    assert done.seconds == LAST(longest)


@pytest.mark.parametrize("lag", [0, 1])
def test_how_busy_cards_are_is_their_work_over_their_time(lag):
    fleet = FleetSize(2, {"a": 1}, trainers=2, lag=lag)
    pace = simulate(FIVE, fleet, EVEN)
    assert pace.busy == {
        "rollout": LAST(5 * 2 / 2 / pace.seconds),
        "a": LAST(5 / pace.seconds),
        "update": LAST(15 / 2 / pace.seconds),
    }
    assert pace.updates_an_hour == LAST(3600 / pace.seconds)


def fleets(most: int = 6) -> st.SearchStrategy[FleetSize]:
    judges = st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.integers(0, 3)})
    return st.builds(FleetSize, st.integers(1, most), judges, st.integers(1, 4), st.sampled_from([0, 1]))


def works() -> st.SearchStrategy[UpdateWork]:
    time = st.floats(0.0, 10.0)
    blocks = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
    scoring = st.fixed_dictionaries({"a": time, "b": time})
    size = st.floats(0.0, 5e9)
    return st.builds(UpdateWork, blocks, time, scoring, time, st.integers(1, 2), size, st.just(0.0), size)


@settings(max_examples=60)
@given(works(), fleets(), st.floats(0.0, 0.5))
def test_no_fleet_is_faster_than_its_work_allows_or_slower_than_everything_in_sequence(work, fleet, spread):
    assumed = Assumptions(spread=spread, bandwidth=1.0)
    pace = simulate(work, fleet, assumed, updates=8, before=3)
    learned, sent = learning_seconds(work, fleet.trainers, assumed), work.count * work.block_bytes / 1e9
    rolled = pace.busy["rollout"] * pace.seconds * fleet.rollout
    scored = work.count * sum(work.scoring.values())
    links = -(-fleet.trainers // assumed.cards_per_node)
    slack = 1e-9 + 1e-9 * (rolled + scored + learned + sent)
    assert max(rolled / fleet.rollout, learned, sent / links) <= pace.seconds + slack
    assert all(share <= 1.0 + 1e-9 for share in pace.busy.values())
    assert pace.seconds <= rolled + scored + learned + sent + slack
    assert least_seconds(work, fleet, assumed) <= seconds(work, fleet, assumed.model_copy(update={"spread": 0.0})) + slack


@settings(max_examples=60)
@given(works(), fleets(), st.floats(0.0, 0.5), st.sampled_from(["rollout", "a", "b"]))
def test_one_card_more_never_makes_an_update_longer_where_none_is_lost(work, fleet, spread, kind):
    assumed = Assumptions(spread=spread, bandwidth=1.0)
    rewards = {**fleet.rewards, kind: fleet.rewards[kind] + 1} if kind != "rollout" else fleet.rewards
    assume(kind == "rollout" or fleet.rewards[kind])
    larger = replace(fleet, rollout=fleet.rollout + (kind == "rollout"), rewards=rewards)
    before, after = seconds(work, fleet, assumed), seconds(work, larger, assumed)
    assert after <= before * (1 + 1e-9) + 1e-9


@settings(max_examples=20)
@given(works(), st.integers(2, 6), st.sampled_from([0, 1]))
def test_the_split_that_is_chosen_is_as_fast_as_the_best_of_all(work, cards, lag):
    every = [
        FleetSize(rollout, {"a": a, "b": b}, trainers, lag)
        for rollout, a, b, trainers in itertools.product(range(1, cards), range(cards), range(cards), range(1, cards))
        if rollout + a + b + trainers <= cards and trainers <= min(n for n in (rollout, a or cards, b or cards))
    ]
    assumed = Assumptions(spread=0.0, bandwidth=1.0)
    fastest = min(seconds(work, fleet, assumed) for fleet in every)
    chosen = best_split(work, cards, lag, assumed)
    assert chosen.cards <= cards and chosen.lag == lag and chosen.possible
    assert seconds(work, chosen, assumed) <= fastest * 1.0100001 + 1e-9


def test_only_as_many_cards_learn_as_may():
    few = EVEN.model_copy(update={"trainers": 1})
    assert best_split(FIVE, 64, 1, few).trainers == 1 and best_split(FIVE, 64, 1, EVEN).trainers > 1
    with pytest.raises(UserError, match="take 2 cards or more"):
        best_split(FIVE, 1, 0, EVEN)


def test_in_turn_each_card_does_its_share_of_everything():
    work = UpdateWork((5, 3), rollout=2.0, scoring={"a": 1.0, "b": 0.5}, learning=3.0, gradient_bytes=1e9)
    assumed = Assumptions(bandwidth=1.0)
    assert in_turn(work, 1, assumed) == LAST(8 * 6.5)
    assert in_turn(work, 3, assumed) == LAST(3 * 3.5 + (2 + 1) * 3 + 2 * 2 * 2 / 3)


@pytest.mark.parametrize(
    ("name", "work", "fleet"),
    [
        ("rollout", UpdateWork((8,), 9.0, {"a": 1.0}, 1.0), FleetSize(2, {"a": 2}, 2)),
        ("reward", UpdateWork((8,), 1.0, {"a": 9.0}, 1.0), FleetSize(2, {"a": 2}, 2)),
        ("update", UpdateWork((8,), 1.0, {"a": 1.0}, 9.0), FleetSize(2, {"a": 2}, 2)),
        ("weight sync", UpdateWork((8,), 1.0, {"a": 1.0}, 1.0, weight_bytes=99e9), FleetSize(2, {"a": 2}, 2)),
        ("block transfer", UpdateWork((8,), 1.0, {"a": 1.0}, 1.0, block_bytes=9e9), FleetSize(2, {"a": 2}, 2)),
        ("granularity", UpdateWork((8,), 9.0, {"a": 1.0}, 1.0), FleetSize(7, {"a": 2}, 2)),
    ],
)
def test_what_holds_a_fleet_back_has_a_name(name, work, fleet):
    assumed = Assumptions(spread=0.0, bandwidth=1.0)
    saved = savings(work, fleet, assumed, fleet.cards)
    assert Plan(fleet, simulate(work, fleet, assumed), saved).bottleneck == name


def test_savings_are_of_a_fleet_whose_cards_share_every_block():
    """5 blocks of 2 s on 2 cards, then 15 s: 6 s of rollout, 5 where the blocks are shared, of which a card's share is free."""
    saved = savings(replace(FIVE, scoring={}), FleetSize(2), EVEN, 3)
    assert saved == {"rollout": 5.0, "reward": 0.0, "update": 15.0, "weight sync": 0.0, "block transfer": 0.0, "granularity": 1.0}
    idle = savings(replace(FIVE, scoring={}), FleetSize(2), EVEN, 12)
    assert idle["granularity"] == LAST(21 - (10 / 8 + 15 / 4)) and idle["update"] == LAST(15 / 4)


def test_idle_cards_are_no_trainers_where_no_more_may_learn():
    slow, fleet = UpdateWork((8,), rollout=1.0, learning=50.0), FleetSize(1)
    for most, name in ((1, "update"), (None, "granularity")):
        assumed = EVEN.model_copy(update={"trainers": most})
        assert Plan(fleet, simulate(slow, fleet, assumed), savings(slow, fleet, assumed, 64)).bottleneck == name


def test_a_balanced_fleet_is_held_back_by_the_cards_that_work_most():
    work = UpdateWork((8,), rollout=1.0, learning=1.0)
    assert plan_fleet(work, 2, 1, EVEN).bottleneck in ("rollout", "update")
    assert not any(savings(work, FleetSize(1, lag=1), EVEN, 2).values())


RECIPE = ["mini", "flow_grpo"]
SIZES = ["rollout.prompts_per_update=10", "rollout.group_size=4", "rollout.micro_batch=12", "optimizer.steps_per_update=2"]
SMALL = [*RECIPE, *SIZES]


def run_folder(folder, rows, *overrides):
    """A run of 10 prompts of 4 samples, three prompts a block and two steps: blocks of 3, 2 and 3, 2 prompts."""
    folder.mkdir()
    config = load_config(RECIPE, [*SIZES, *overrides])
    (folder / "config.yaml").write_text(dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"update": i, **row}) + "\n" for i, row in enumerate(rows)))
    return config


def row(rollout, reward, update, **more):
    return {"optimizer_steps": 2, "seconds/rollout": rollout, "seconds/reward": reward, "seconds/update": update, **more}


def test_seconds_are_read_from_a_runs_updates_but_for_those_that_say_nothing(tmp_path):
    rows = [
        row(400.0, 400.0, 400.0),
        row(8.0, 2.0, 12.0),
        {"update": 1, "held_out/strict": 0.5},
        row(999.0, 999.0, 999.0, compiling=3.0),
        row(999.0, 999.0, 999.0, optimizer_steps=0),
        row(12.0, 4.0, 24.0, **{"seconds/context": 4.0}),
        row(12.0, 3.0, 18.0),
    ]
    config = run_folder(tmp_path / "run", rows)
    assert blocks_of(config) == (2, 2)
    sample = seconds_of(str(tmp_path / "run"), 1)
    assert (sample.rollout, sample.scoring, sample.learning) == (LAST(12 / 40), {"rewards": LAST(3 / 40)}, LAST(18 / 40))
    three = seconds_of(str(tmp_path / "run"), 3)
    assert (three.rollout, three.learning) == (LAST(12 / 40 * 4 / 2), LAST(18 / 40 * 4 / 2))
    work = work_of(config, sample, EVEN)
    assert (work.count, work.rollout, work.scoring, work.learning) == (4, LAST(3.0), {"rewards": LAST(0.75)}, LAST(4.5))
    assert in_turn(work, 1, EVEN) == LAST(12 + 3 + 18)


def test_groups_that_a_refill_adds_are_counted(tmp_path):
    run_folder(tmp_path / "run", [row(400.0, 1.0, 1.0), row(12.0, 3.0, 18.0, added_groups=2)], "rollout.refill=0.2")
    assert seconds_of(str(tmp_path / "run"), 1).rollout == LAST(12 / 48)


def test_what_travels_is_counted_by_the_bill():
    config = load_config(RECIPE, [*SIZES, "rollout.prompts_per_update=12"])
    sample = seconds_of_json({"rollout": 1.0, "reward": 0.0, "update": 1.0})
    work = work_of(config, sample, EVEN)
    memory = memory_of(config)["rollout"]
    assert (work.count, work.block_bytes * 4) == (4, memory["latents"])
    assert work.weight_bytes == memory["trained weights"] and work.gradient_bytes == 2 * work.weight_bytes
    assert work_of(config, sample, EVEN.model_copy(update={"block_bytes": 7.0})).block_bytes == 7.0


def seconds_of_json(said):
    """Of a bench.json that says this of a sample."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"seconds_per_sample": said}, file)
        file.flush()
        return seconds_of(file.name, 1)


def test_a_bench_says_the_seconds_of_a_sample_by_phase():
    sample = seconds_of_json({"encode": 0.25, "rollout": 1.0, "decode": 0.5, "reward": 0.125, "update": 2.0})
    assert (sample.rollout, sample.scoring, sample.learning) == (1.75, {"rewards": 0.125}, 2.0)
    assert seconds_of_json({"rollout": 1, "reward": {"a": 1, "b": 2}, "update": 3}).scoring == {"a": 1, "b": 2}


def test_the_table_says_three_ways_for_each_number_of_cards_and_one_sentence():
    rows = rows_of(FIVE, [1, 4], EVEN)
    assert [(row.cards, row.way) for row in rows] == [(1, "in turn"), (4, "in turn"), (4, "lag 0"), (4, "lag 1")]
    assert rows[0].seconds == LAST(30) and rows[0].busy == 1.0
    said = text(FIVE, rows, EVEN)
    assert "bandwidth=12.5" in said and said.endswith(sentence(FIVE, rows)) and said.count("| 4 ") == 3
    alone = rows_of(UpdateWork((1,), 1.0, {}, 1.0), [512], EVEN)
    assert "is lag 1" in sentence(FIVE, alone) and "granularity" in sentence(FIVE, alone)
    assert "in turn" in sentence(FIVE, rows[:2])


def test_the_command_prints_a_table_or_one_json_object(tmp_path, capsys):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"seconds_per_sample": {"rollout": 1.0, "reward": 0.5, "update": 2.0}}))
    command = ["plan", *SMALL, "--fleet", str(file), "--cards", "2", "3"]
    assert main(command) == 0
    assert "| 2     | lag 1" in capsys.readouterr().out
    assert main([*command, "--assume", "spread=0", "--assume", "trainers=1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in said["rows"]] == ["in turn", "lag 0", "lag 1"] * 2
    assert said["assumed"]["trainers"] == 1 and said["work"]["blocks"] == [2, 2]
    turn, lag0, lag1 = (row["seconds_per_update"] for row in said["rows"][:3])
    assert turn == pytest.approx(20 * 3.5, rel=1e-4) and lag0 == pytest.approx(4 * 10 + 5 + 80, rel=1e-4)
    assert lag1 == pytest.approx(4 * 25, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fleet", "nowhere"], "there is no nowhere; --fleet takes the folder of a run"),
        (["--fleet", "empty"], "not a run folder"),
        (["--fleet", "short"], "train it for a few updates more"),
        (["--fleet", "list.json"], "no seconds_per_sample"),
        (["--fleet", "half.json"], "no seconds_per_sample"),
        (["--fleet", "notes.txt"], "take a bench.json of flowgrpo bench"),
        (["--fleet", "minus.json"], "seconds_per_sample.update is -1, which is no number of seconds"),
        (["--fleet", "good.json", "--assume", "bandwith=3"], "did you mean 'bandwidth'"),
        (["--fleet", "good.json", "--assume", "bandwidth=0"], "--assume: bandwidth"),
        (["--fleet", "good.json", "--assume", "bandwidth"], "must look like"),
        (["--fleet", "good.json", "--cards", "0"], "0 is less than 1"),
        (["--fleet", "good.json", "--processes", "2"], "--processes is not of fleets"),
        (["--cards", "8"], "--cards is of fleets"),
        (["--assume", "spread=0"], "--assume is of fleets"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run_folder(tmp_path / "short", [row(1.0, 1.0, 1.0, compiling=2.0)])
    good = {"rollout": 1.0, "reward": 0.0, "update": 1.0}
    (tmp_path / "good.json").write_text(json.dumps({"seconds_per_sample": good}))
    (tmp_path / "minus.json").write_text(json.dumps({"seconds_per_sample": {**good, "update": -1}}))
    (tmp_path / "notes.txt").write_text("a note")
    (tmp_path / "half.json").write_text(json.dumps({"seconds_per_sample": {"rollout": 1.0}}))
    (tmp_path / "list.json").write_text("[1]")
    assert main(["plan", *SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("flowgrpo: ") and error.count("\n") == 1
