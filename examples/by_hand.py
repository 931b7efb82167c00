"""GRPO by hand: load a model, roll out, score, give credit, compute the loss and take the step, with public names only.

    python examples/by_hand.py [UPDATES]

It trains a LoRA on the miniature model that ships with flowgrpo, in a minute on a laptop. B states of a network evaluation, C
transitions that leave them, G samples of a prompt, N nodes of a prompt's tree.
"""

import sys

import torch

import flowgrpo as fg

PROMPTS = fg.load_prompts("asset:mini-sd3/prompts/train.jsonl.gz")
CALL = {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 1}
CLIP = 1e-3
PER_UPDATE = 6


def loss_of(policy: fg.DiffusersPolicy, batch, advantage: torch.Tensor) -> torch.Tensor:
    """[C]: PPO's clipped surrogate (arXiv 1707.06347, eq. 7) of transitions that left B states."""
    prediction = policy.predict(batch.states, batch.prompts, batch.step)  # [B, ...]
    parent = batch.parent  # [C]: the row of the state that each transition left
    log_prob = batch.law.log_prob(batch.states[parent], prediction[parent], batch.next_states)  # [C, 1]
    ratio = torch.exp(log_prob - batch.log_prob)  # exactly 1 before the first step
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
    return torch.maximum(-advantage * ratio, -advantage * clipped).squeeze(1)


def main(updates: int) -> None:
    policy = fg.DiffusersPolicy("asset:mini-sd3", steps=3, spacing="uniform", call=CALL, lora=fg.Lora(rank=32))
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1.5e-3)
    for update in range(updates):
        start = PER_UPDATE * update % len(PROMPTS)
        prompts = PROMPTS[start : start + PER_UPDATE]
        plan = fg.plans.AllSteps(kernel=fg.kernels.FlowSde(noise_level=0.9))
        tree = fg.rollout(policy, prompts, plan, group_size=12, seed=0, update=update)
        rewards = fg.score(tree.samples, {"strict": "scene:strict"})  # [P x G]
        scored = tree.assess(rewards, fg.credits.Terminal())  # advantages [P, N]
        count = scored.in_loss.sum()
        for batch, advantage in tree.batches(scored):
            (loss_of(policy, batch, advantage).sum() / count).backward()
        torch.nn.utils.clip_grad_norm_(policy.trainable().values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"update {update}: reward {rewards.mean('strict'):.3f}, {count} transitions trained")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
