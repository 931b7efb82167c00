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
    assert "\nscene: Scene judge" in out and "[0, 1]" in out and "Apache-2.0" in out


def test_rewards_probes_on_the_users_pictures(capsys, tmp_path):
    import numpy as np
    from PIL import Image

    from flowgrpo.assets.scenes import draw, sample_metadata, sample_scene

    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        metadata = sample_metadata(rng, "colors")
        Image.fromarray(draw(sample_scene(rng, metadata))).save(tmp_path / f"{i}.png")
        rows.append({**metadata, "image": f"{i}.png"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["rewards", "scene:strict", "--images", str(tmp_path / "rows.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["reward"] == "scene:strict" and found["mean"] == 1.0
    (tmp_path / "0.png").write_text("no picture")
    assert main(["rewards", "scene:strict", "--images", str(tmp_path / "rows.jsonl")]) == 2
    assert "not a picture" in capsys.readouterr().err


def test_sample_without_a_lora_in_the_folder(capsys, tmp_path):
    (tmp_path / "p.txt").write_text("a red circle\n")
    assert main(["sample", "quickstart", "--prompts", str(tmp_path / "p.txt"), "--lora", str(tmp_path)]) == 2
    assert "no pytorch_lora_weights.safetensors" in capsys.readouterr().err
