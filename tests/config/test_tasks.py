"""The tasks that ship: what they are trained and judged on is what their rewards can read."""

import re
from pathlib import Path

import pytest

from flowgrpo.cli.main import main
from flowgrpo.config.recipes import TASKS, facts, fitting, tasks
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import HUB, load_prompts, prompts_of
from flowgrpo.data.prompts._generators import options_of
from flowgrpo.data.prompts._hub import SOURCE
from flowgrpo.scoring.scorer import Scorer, find_reward

MODELS = {"images": "sd3.5-medium", "videos": "wan2.1-1.3b", "texts": "llada-8b"}
STAND_IN = """
from flowgrpo.data.prompts.geneval import CLASSES
from flowgrpo.rewards._detectors import Detector


class Coco(Detector):
    classes = frozenset(CLASSES)

    def __call__(self, images):
        return [[] for _ in images]
"""


def recipe(task, kind, method="flow_grpo"):
    """With a model of its kind that it goes with."""
    about = facts(task)
    model = "flux.1-kontext" if about.needs else "mini" if about.latents else MODELS[kind]
    return load_config([model, "gdpo" if kind == "texts" else method, task])


def recipes_of(task):
    return [recipe(task, kind) for kind in facts(task).judges]


@pytest.fixture
def checking(tmp_path):
    """A scorer with those rewards of a config that check rows, and a stand-in for the detector."""
    (tmp_path / "coco.py").write_text(STAND_IN)

    def scorer(rewards):
        def offline(reward):
            arguments = {
                key: f"{tmp_path}/coco.py:Coco" if key == "detector" else value for key, value in reward.arguments.items()
            }
            arguments |= {key: True for key in arguments if key == "allow_code_execution"}
            return RewardConfig(use=reward.use, arguments=arguments)

        return Scorer({label: offline(reward) for label, reward in rewards.items() if find_reward(reward.use)[1].check})

    return scorer


@pytest.mark.parametrize("task", tasks())
@pytest.mark.filterwarnings("ignore:the sandbox")
def test_the_rows_of_a_task_are_what_its_rewards_read(task, checking):
    for config in recipes_of(task):
        scorer = checking(config.rewards)
        for source in (config.rollout.prompts, config.evaluation.prompts):
            stated = prompts_of(facts(task).rows, task, Path())
            assert stated or not source.startswith(HUB)
            scorer.check(stated, task)
            if not source.startswith(HUB):
                made = load_prompts(source)
                scorer.check(made, source)
                assert not stated or {*stated[0].metadata} <= {key for prompt in made for key in prompt.metadata}


@pytest.mark.parametrize("task", tasks())
def test_a_task_trains_on_other_prompts_than_it_is_evaluated_on(task):
    (config, *_) = recipes_of(task)
    train, test = config.rollout.prompts, config.evaluation.prompts
    assert train != test
    if not train.startswith(HUB):
        assert not {p.text for p in load_prompts(train)} & {p.text for p in load_prompts(test)}


@pytest.mark.parametrize("task", tasks())
def test_what_comes_from_the_hub_is_pinned_and_named(task):
    about = facts(task)
    assert about.licence and about.summary and about.judges
    for config in recipes_of(task):
        for source in filter(lambda source: source.startswith(HUB), (config.rollout.prompts, config.evaluation.prompts)):
            parts = SOURCE.fullmatch(source)
            options = options_of(parts["options"], source, None)
            assert re.fullmatch("[0-9a-f]{40}", options["revision"]) and parts["dataset"] in about.downloads
            fields = [field.partition(":")[0] for field in options["fields"].split(",") if field]
            assert {"prompt", *fields} == {*about.rows[0]}, "the rows of a rehearsal look like those of the hub"
            assert all(row["prompt"].endswith(options.get("after", "")) for row in about.rows)


@pytest.mark.parametrize("task", tasks())
def test_what_is_measured_can_be_measured_alone(task):
    for kind in facts(task).judges:
        for method in ("flow_grpo", *(["pref_grpo"] if kind != "texts" else [])):
            config = recipe(task, kind, method)
            assert not find_reward(config.rewards[config.evaluation.metric].use)[1].compares
            trained = [reward.use for reward in config.rewards.values() if reward.weight]
            assert trained and (method != "pref_grpo" or "win_rate:WinRate" in str(config.rewards))


@pytest.mark.parametrize("method", ["flow_grpo", "pref_grpo"])
def test_clips_are_judged_frame_by_frame_where_a_reward_reads_pictures(method):
    for task in tasks():
        if "videos" in facts(task).judges:
            for reward in recipe(task, "videos", method).rewards.values():
                arguments = reward.arguments
                while reward.use == "win_rate:WinRate" and arguments["judge"] == "video:FrameWise":
                    reward, arguments = RewardConfig(use="video:FrameWise"), arguments["arguments"]
                assert find_reward(reward.use)[1].reads in (None, "videos"), (task, reward)


def test_a_judge_that_is_not_served_is_one_sentence():
    from flowgrpo.scoring.exemplars import photos

    rewards = recipe("unified", "images").rewards
    unserved = {**rewards["unified"].arguments, "url": "http://127.0.0.1:9/v1", "retries": 0}
    scorer = Scorer({"unified": RewardConfig(use=rewards["unified"].use, arguments=unserved)})
    with pytest.raises(UserError, match=r"no answer from the judge at http://127.0.0.1:9/v1 .* is its server up\?"):
        scorer(photos())


def test_code_that_a_model_wrote_runs_only_where_the_user_says_so():
    with pytest.raises(UserError, match="allow_code_execution: true"):
        Scorer(recipe("code", "texts").rewards)


def test_a_model_that_takes_no_picture_is_told_so(capsys):
    assert main(["plan", "sd3.5-medium", "flow_grpo", "edit"]) == 2
    assert "task 'edit' needs a model that works from an image, and this one does not" in capsys.readouterr().err
    assert "edit" in fitting("flux.1-kontext", TASKS) and "edit" in fitting("flux.2", TASKS)
    assert "edit" not in fitting("sd3.5-medium", TASKS)
