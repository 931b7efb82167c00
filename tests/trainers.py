"""Trainers of tiny random models, with adapters that have left 0 where there are any, and a reward of one's own."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from threading import Barrier, Lock

import numpy as np
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.parts import own, share_out
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.training.fleet import rollouts
from flowgrpo.training.fleet.rollouts import Rollers
from flowgrpo.training.learn import Totals
from flowgrpo.training.trainer import Trainer

CPU = torch.device("cpu")
TEXT = ["policy.prompt_length=5", "policy.length=4", "policy.steps=2", "policy.sampler.type=random_order"]
PICTURES = ["policy.lora.rank=2", "policy.spacing=pipeline", "policy.steps=3"]
PLAIN = [
    *("evaluation=null", "ema=null", "optimizer.warmup=0", "optimizer.decay_over=null", "optimizer.weight_decay=0"),
    *("optimizer.steps_per_update=1", "optimizer.max_grad_norm=1e9", "optimizer.eps=1e-30"),
    *("rollout.prompts_per_update=2", "rollout.group_size=8"),
]


BUILDING = Lock()
"""What loads a model changes torch for all threads meanwhile: two at once leave it changed."""


@dataclass
class Judged:
    """A scorer of one reward."""

    label: str
    reward: object
    weights: dict = field(default_factory=dict)
    measured: dict = field(default_factory=dict)
    """By label, what a rule has to know of samples."""
    served = threaded = ()
    at_once = 1
    looks = True

    @property
    def rewards(self):
        return {self.label: self.reward, **self.measured}

    def __call__(self, samples):
        return {label: np.array(reward(samples), float) for label, reward in self.rewards.items()}


def sevens(samples):
    """The share of the four characters that are a 7."""
    return [text.count("7") / 4 for text in samples.texts]


def brightness(samples):
    return samples.images.mean((1, 2, 3)).tolist()


class Rank(Processes):
    """One of two processes that are threads of this one; what crosses them goes over a board."""

    def __init__(self, rank, board, barrier):
        super().__init__(rank, len(board), CPU)
        self.board, self.barrier = board, barrier

    def gather_all(self, items):
        self.board[self.rank] = items
        self.barrier.wait(60)
        everything = [item for row in self.board for item in row]
        self.barrier.wait(60)
        return everything

    def sum(self, tensors):
        both = self.gather([[tensor.clone() for tensor in tensors]])
        for tensor, *parts in zip(tensors, *both, strict=True):
            tensor.copy_(sum(parts[1:], parts[0]))


def in_two_processes(work):
    """What `work(processes)` returns in each of them."""
    board, barrier = [[], []], Barrier(2)

    def one(rank):
        try:
            return work(Rank(rank, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(2)]]


def picture_trainer(pipelines, *more, method="flow_grpo", rule=None, reward=brightness, of="sd3", **named):
    call = ",".join(f"{key}: {value}" for key, value in tiny.pipelines()[of].call.items())
    model = [f"policy.model={pipelines[of]}", f"policy.call={{{call}}}", "rewards={it: {use: 'x:y'}}"]
    return made(["mini", method, *([rule] if rule else [])], [*PLAIN, *PICTURES, *model, *more], reward, **named)


def text_trainer(mdlm, *more, method="trajectory", rule=None, reward=sevens, **named):
    rewards = ["rewards.countdown=null", "rewards.strict=null", "rewards.it={use: 'x:y'}"]
    overrides = [*PLAIN, *TEXT, f"policy.model={mdlm}", *rewards, *more]
    return made(["mini-mdlm", method, *([rule] if rule else [])], overrides, reward, **named)


def made(recipe, overrides, reward, prompts=("1+2=:", "7:"), processes=None, sharding=None):
    config = load_config(recipe, overrides)
    with BUILDING:
        if sharding:
            policy = config.policy.build_sharded(CPU, config.seed, sharding)
        elif processes and processes.team > 1:
            policy = config.policy.build_split(CPU, config.seed, processes)
        else:
            policy = config.policy.build(CPU, config.seed)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        noise = 0.05 * torch.randn(parameter.shape, generator=generator)
        own(parameter).add_(own(share_out(noise, parameter)))
    given = [
        {"answer": "77", "hint": "77:", "wordings": ["2+1=:", "3=:"]},
        {"answer": "1234", "hint": "7:", "wordings": ["7=:"]},
    ]
    rows = [Prompt(i, text, given[i % 2]) for i, text in enumerate(prompts)]
    measured = {label: load_reward(one.use, one.arguments) for label, one in config.rewards.items() if label != "it"}
    return Trainer(config, policy, rows, Judged("it", reward, measured=measured), processes or Processes.alone())


def gradient(trainer, blocks, scored):
    """What these blocks add of the first update's gradient, and of its loss."""
    trained, mean_weight = trainer.learner.prepared(blocks, scored, False)
    votes, count = scored.votes(range(len(scored.shapes)), "transition")
    totals = Totals()
    totals.begin()
    for block in trained:
        trainer.learner.accumulate(block, scored.advantage, votes, count, mean_weight, totals)
        trainer.weights.end_block()
    trainer.weights.gradient_norm()
    return trainer.weights.taken_gradient(), sum(float(sums[1]) for sums in totals.sums)


class Here:
    """In place of an actor: it is asked with what has been packed for another process."""

    def __init__(self, kind, make, arguments, gpus, patience):
        self.inside = make(*json.loads(json.dumps(arguments)))

    def ask(self, job):
        return self.inside.answer(job)


class InTurn:
    """In place of a pool: its workers do each job as soon as it is given, one after the other."""

    def __init__(self, kind, start, count):
        self.workers = cycle([start(number) for number in range(count)])

    def submit(self, job):
        future = Future()
        future.set_result(next(self.workers).ask(job))
        return future


def roll_out_here(put):
    """From now on what rolls out for a trainer is in its process. `put` is setattr, or one that is undone."""
    for name, stand_in in {"OnRay": Here, "Pool": InTurn, "shared": same, "fetched": same}.items():
        put(rollouts, name, stand_in)


def same(content):
    return content


def with_rollers(trainer, count=2, lag=0):
    """The same trainer, but so many processes roll out for it."""
    fleet = trainer.config.fleet.model_copy(update={"rollout": count, "lag": lag})
    config = trainer.config.model_copy(update={"fleet": fleet, "updates": 4})
    prompts, scorer, processes = trainer.order.prompts, trainer.collector.beside.scorer, trainer.processes
    return Trainer(config, trainer.policy, prompts, scorer, processes, rollers=Rollers(config, processes))
