"""The reward models of human preference that benchmarks without questions are judged by."""

from flowgrpo.config.run import RewardConfig

PREFERENCES = {
    "pickscore": RewardConfig(use="pickscore"),
    "hps": RewardConfig(use="hps", arguments={"version": "v2.1"}),
    "image_reward": RewardConfig(use="image_reward"),
    "clip_score": RewardConfig(use="clip_score"),
    "aesthetic": RewardConfig(use="aesthetic"),
}
