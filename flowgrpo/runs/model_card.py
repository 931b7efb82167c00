"""The README of a checkpoint."""

from flowgrpo.config.run import Config

CARD = """---
tags: [flowgrpo, grpo, lora, diffusers]
---

# {model}, aligned with flowgrpo
{rehearsal}
Trained for {updates} updates of {prompts} prompts x {group} samples on {rewards}.

- Base model: `{model}` (its licence holds for these weights too)
- Load it: {load}
- Averaged weights (EMA), when the run kept them: folder `ema/`, same format
- Everything that is needed to repeat or resume the run: `config.yaml` and `state/`
"""


def model_card(config: Config, updates: int) -> str:
    policy = config.policy.model_dump()
    load = "`pipe.load_lora_weights(folder)`" if policy.get("lora") else "the denoiser's `from_pretrained(folder / name)`"
    rewards = ", ".join(f"`{r.where}` (weight {r.weight:g})" for r in config.rewards.values())
    rollout = config.rollout
    return CARD.format(
        model=policy.get("model", config.policy.type),
        updates=updates,
        prompts=rollout.prompts_per_update,
        group=rollout.group_size,
        rewards=rewards,
        rehearsal="".join(f"\n> **{sentence}**\n" for sentence in config.rehearsal),
        load=load,
    )
