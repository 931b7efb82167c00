"""The small commands."""

import json

from flowgrpo.cli.main import main


def test_doctor_says_what_is_installed(capsys):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] and facts["cpu cores"] >= 1 and "gpus" in facts


def test_rewards_lists_and_describes(capsys):
    assert main(["rewards"]) == 0
    out = capsys.readouterr().out
    assert "\nscene:strict\n" in out and "range: 0 to 1" in out and "licence: Apache-2.0" in out


def test_sample_without_a_lora_in_the_folder(capsys, tmp_path):
    (tmp_path / "p.txt").write_text("a red circle\n")
    assert main(["sample", "quickstart", "--prompts", str(tmp_path / "p.txt"), "--lora", str(tmp_path)]) == 2
    assert "no pytorch_lora_weights.safetensors" in capsys.readouterr().err
