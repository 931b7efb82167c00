"""Make mini-mdlm from scratch: `python assets/mini-mdlm/train.py --out FOLDER`, a few minutes on two CPU cores.

A masked-diffusion language model that solves small countdown problems: `3,4,7=49:` -> `(3+4)*7`. It is trained on the evidence
lower bound over sampled solutions, and left imperfect.
B batch, N = 9 prompt + 8 completion ids.
"""

import argparse
import math
from functools import cache
from hashlib import blake2b
from itertools import permutations, product
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from flowgrpo.assets.pretraining import write_rows
from flowgrpo.data.prompts import load_prompts
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked.transformer import MiniMdlm, MiniMdlmConfig
from flowgrpo.rewards.arithmetic import countdown_strict, countdown_valid

CHARACTERS = "0123456789+-*(),=:"
EOS, MASK, PAD = "<eos>", "<mask>", "<pad>"
LENGTH, PROMPT = 8, 9
HELD_OUT_SHARE = 10
"""One problem in this many is never seen in training."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One id per character."""
    vocabulary = {token: i for i, token in enumerate([*CHARACTERS, EOS, MASK, PAD])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, mask_token=MASK, pad_token=PAD, clean_up_tokenization_spaces=False
    )


@cache
def solutions() -> dict[tuple[tuple[int, ...], int], list[str]]:
    """Every problem, (sorted numbers, target of 0 .. 99), with all its solutions in at most 7 characters."""
    found: dict[tuple[tuple[int, ...], int], set[str]] = {}
    for a, b, c in product(range(1, 10), repeat=3):
        for x, y in product("+-*", repeat=2):
            for text in (f"{a}{x}{b}{y}{c}", f"({a}{x}{b}){y}{c}", f"{a}{x}({b}{y}{c})"):
                value = eval(text)
                if 0 <= value <= 99:
                    found.setdefault((tuple(sorted((a, b, c))), value), set()).add(text)
    return {problem: sorted(texts) for problem, texts in sorted(found.items())}


def is_held_out(problem: tuple[tuple[int, ...], int]) -> bool:
    return blake2b(repr(problem).encode(), digest_size=4).digest()[0] % HELD_OUT_SHARE == 0


def prompt_of(numbers: tuple[int, ...], target: int) -> str:
    return f"{','.join(map(str, numbers))}={target:02d}:"


def sampled_batch(tokenizer: PreTrainedTokenizerFast, pairs: list, size: int, rng: np.random.Generator) -> Tensor:
    """[B, N] ids of random (problem, solution) pairs with the problem's numbers in random order."""
    rows = []
    for i in rng.integers(len(pairs), size=size):
        (numbers, target), text = pairs[i]
        order = tuple(int(n) for n in rng.permutation(numbers))
        answer = tokenizer(text)["input_ids"]
        rows.append(tokenizer(prompt_of(order, target))["input_ids"] + answer + [tokenizer.eos_token_id] * (LENGTH - len(answer)))
    return torch.tensor(rows)


def elbo_loss(model: MiniMdlm, ids: Tensor, mask: int, generator: torch.Generator) -> Tensor:
    """Mean over the batch of 1/t times the cross-entropy at the masked ids, per position; one t per row, evenly spread."""
    size = len(ids)
    t = ((torch.arange(size) + torch.rand(1, generator=generator)) / size).clamp(min=1e-3)
    masked = torch.rand(size, LENGTH, generator=generator) < t[:, None]
    hidden = ids.clone()
    hidden[:, PROMPT:][masked] = mask
    logits = model(hidden).logits[:, PROMPT:]
    losses = cross_entropy(logits.flatten(0, 1), ids[:, PROMPT:].flatten(), reduction="none").view(size, LENGTH)
    return (losses * masked / t[:, None]).sum() / (size * LENGTH)


def train(steps: int, batch: int, lr: float, seed: int) -> tuple[MiniMdlm, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    tokenizer, rng, generator = make_tokenizer(), np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    pairs = [(problem, text) for problem, texts in solutions().items() if not is_held_out(problem) for text in texts]
    model = MiniMdlm(MiniMdlmConfig(vocab_size=len(tokenizer), max_position_embeddings=PROMPT + LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    for step in range(steps):
        share = min((step + 1) / 50, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * share
        loss = elbo_loss(model, sampled_batch(tokenizer, pairs, batch, rng), tokenizer.mask_token_id, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return model, tokenizer


def write_prompts(folder: Path, train_count: int, held_out_count: int) -> None:
    """Problems for reinforcement learning and for evaluation, the more likely the more solutions they have; the latter were never
    seen in any order of their numbers."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, held_out in (("train", train_count, False), ("held_out", held_out_count, True)):
        problems = [problem for problem in solutions() if is_held_out(problem) == held_out]
        orders = [(order, p) for p in problems for order in sorted(set(permutations(p[0])))]
        ways = np.array([len(solutions()[p]) for _, p in orders], float)
        places = rng.choice(len(orders), count, replace=False, p=ways / ways.sum())
        chosen = [(orders[i][0], orders[i][1][1]) for i in places]
        rows = [{"prompt": prompt_of(order, target), "numbers": list(order), "target": target} for order, target in chosen]
        write_rows(folder / f"{name}.jsonl.gz", rows)


def evaluate(folder: Path) -> None:
    """Held-out accuracy and share of valid expressions, by order, number of steps S and temperature."""
    prompts = load_prompts(str(folder / "prompts" / "held_out.jsonl.gz"))
    print("| order | S=8, greedy | S=8, sampled | S=4, greedy | S=4, sampled |\n|---|---|---|---|---|")
    for order in ("low_confidence", "random_order", "left_to_right"):
        cells = []
        for steps, temperature in product((8, 4), (0.0, 1.0)):
            config = MaskedConfig(
                model=str(folder),
                steps=steps,
                prompt_length=PROMPT,
                length=LENGTH,
                sampler={"type": order, "temperature": temperature},
            )
            samples = config.build_sampler(torch.device("cpu"), None).generate(prompts, [1000 + p.index for p in prompts], steps)
            solved, valid = (100 * np.mean(score(samples)) for score in (countdown_strict, countdown_valid))
            cells.append(f"{solved:.0f} / {valid:.0f}")
        print(f"| {order} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluate", type=Path, help="a folder that this script made; nothing is trained")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate(arguments.evaluate)
        return
    write_prompts(arguments.out / "prompts", 3000, 500)
    model, tokenizer = train(arguments.steps, arguments.batch, arguments.lr, seed=0)
    model.half().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
