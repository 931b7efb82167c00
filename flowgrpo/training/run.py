"""A training run from config to report: probe, calibrate, evaluate, train, checkpoint, evaluate, write it all down."""

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.held_out import compare, evaluate
from flowgrpo.policies.prompt_check import check_files, tell
from flowgrpo.policies.protocol import Policy
from flowgrpo.runs import folder
from flowgrpo.runs.checkpoint import checkpoints, load_state, save_state, write_checkpoint
from flowgrpo.runs.folder import HeldOut
from flowgrpo.runs.model_card import model_card
from flowgrpo.runs.report import write_report
from flowgrpo.scoring.scorer import Scorer, probe
from flowgrpo.training.calibration import calibrate, with_levels
from flowgrpo.training.sentinels import Sentinels
from flowgrpo.training.trainer import Trainer
from flowgrpo.training.tree import save_tree

PROBE_PROMPTS = 32


def train(config: Config, name: str, resume: Path | None) -> dict[str, Any] | None:
    """Train, in a new folder called after `name` or on from the run folder `resume`.

    Returns the run's summary, the last line that `flowgrpo train` prints; None on all but the main process.
    """
    training = Training(config, name, resume)
    training.begin(resume is not None)
    training.loop()
    return training.finish()


class Training:
    def __init__(self, config: Config, name: str, resume: Path | None) -> None:
        self.config = config
        prompts = load_prompts(config.rollout.prompts)
        evaluation = config.evaluation
        files = {config.rollout.prompts: prompts}
        if evaluation:
            files[evaluation.prompts] = load_prompts(evaluation.prompts)
        self.held_out = spread(files[evaluation.prompts], evaluation.limit) if evaluation else []
        self.scorer = Scorer(config.rewards)
        for source, rows in files.items():
            self.scorer.check(rows, source)
        if evaluation and self.scorer.cards[evaluation.metric].compares:
            raise UserError(
                f"evaluation.metric '{evaluation.metric}' compares samples, and a held-out prompt has one; name another"
            )
        tracked = config.tracker != "none"
        self.accelerator = Accelerator(
            log_with=config.tracker if tracked else None, project_dir=config.output, cpu=not torch.cuda.is_available()
        )
        self.processes = Processes(self.accelerator)
        notes = check_files(config.policy, files)
        self.policy: Policy = config.policy.build(self.processes.device, config.seed)
        notes = check_files(config.policy, files) if notes is None else notes
        if resume is None:
            self._probe(prompts)
        made = [folder.new_run(config.output, name)] if self.processes.is_main and resume is None else []
        self.run: Path = resume or self.processes.gather(made)[0]
        if self.processes.is_main:
            folder.save_notes(self.run, notes or [])
            tell(notes or [])
        self.trainer = Trainer(self._calibrated(prompts), self.policy, prompts, self.scorer, self.processes)
        self.seconds = 0.0
        self.sentinels = Sentinels(config.sentinels, config.rewards) if config.sentinels else None
        if tracked:
            self.accelerator.init_trackers("flowgrpo", config=config.model_dump(mode="json"))

    def _calibrated(self, prompts: list[Prompt]) -> Config:
        """The config to train with; what was calibrated once stays with the run."""
        if self.config.calibration is None:
            return self.config
        levels = folder.load_calibration(self.run)
        if levels is None:
            found = calibrate(self.config, self.policy, prompts, self.scorer, self.processes)
            levels = found.levels
            if self.processes.is_main:
                folder.save_calibration(self.run, asdict(found))
        return with_levels(self.config, levels)

    def begin(self, resume: bool) -> None:
        """Restore the last checkpoint, or evaluate the untrained policy."""
        if resume:
            self._restore()
        if self.processes.is_main:
            folder.write_config(self.run, self.config)
        if self.config.evaluation and not (self.run / "samples" / "before.json").exists():
            if self.trainer.updates:
                raise UserError(f"{self.run}/samples/before.json is missing; it can't be made again after training began")
            self._evaluate("before")

    def _restore(self) -> None:
        found = checkpoints(self.run)
        for partial in self.run.glob(".checkpoint-*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        if found:
            tensors, facts = load_state(found[-1] / "state")
            self.trainer.load(tensors, facts)
            self.seconds = facts["seconds"]
        if self.processes.is_main:
            folder.rewind_metrics(self.run, self.trainer.updates)
        if self.sentinels:
            for row in self.processes.gather(folder.load_metrics(self.run) if self.processes.is_main else []):
                self.sentinels.see(row)
            if self.processes.is_main:
                folder.save_alarms(self.run, self.sentinels.raised)

    def _probe(self, prompts: list[Prompt]) -> None:
        chosen = spread(prompts, PROBE_PROMPTS)
        seeds = [self.config.seed + i for i in range(len(chosen))]
        probe(self.scorer, self.policy.generate(chosen, seeds, self.config.policy.steps))

    def loop(self) -> None:
        begin = self.trainer.updates
        for _ in bar(range(begin, self.config.updates), "train", self.processes.is_main):
            if self._stopped:
                break
            start = time.perf_counter()
            metrics, parts, scored = self.trainer.update()
            self.seconds += time.perf_counter() - start
            done = self.trainer.updates
            self._record(metrics)
            self._watch(metrics)
            last = done == self.config.updates or self._stopped
            if last and self.processes.is_main:
                save_tree(self.run, parts[0], scored)
            if done % self.config.checkpoint_every == 0 or last:
                self._checkpoint()
            evaluation = self.config.evaluation
            if evaluation and evaluation.every and done % evaluation.every == 0 and not last:
                self._evaluate_between()

    @property
    def _stopped(self) -> bool:
        return self.sentinels is not None and self.sentinels.stop

    def _watch(self, metrics: dict[str, Any]) -> None:
        """Show the sentinels an update, and pass on what they say."""
        if self.sentinels is None:
            return
        fresh = self.sentinels.see(metrics)
        if fresh and self.processes.is_main:
            folder.save_alarms(self.run, self.sentinels.raised)
            print(*(f"flowgrpo: update {alarm.update}: {alarm.sentence}" for alarm in fresh), sep="\n", file=sys.stderr)

    def _record(self, metrics: dict[str, Any]) -> None:
        if not self.processes.is_main:
            return
        folder.append_metrics(self.run, metrics)
        self.accelerator.log(metrics, step=metrics["update"])

    def _evaluate_between(self) -> None:
        assert self.config.evaluation is not None
        prompts = spread(self.held_out, self.config.evaluation.limit_between)
        found = self._held_out(prompts, 0)
        means = {f"held_out/{label}": float(values.mean()) for label, values in found.scores.items()}
        self._record({"update": self.trainer.updates - 1, **means})

    def _held_out(self, prompts: list[Prompt], pictures: int) -> HeldOut:
        assert self.config.evaluation is not None
        arguments = (self.policy, self.scorer, prompts, self.config.evaluation, self.processes, pictures)
        if self.trainer.ema is None:
            return evaluate(*arguments)
        with self.trainer.ema.applied():
            return evaluate(*arguments)

    def _evaluate(self, when: folder.When) -> None:
        assert self.config.evaluation is not None
        found = self._held_out(self.held_out, self.config.evaluation.pictures)
        if self.processes.is_main:
            folder.save_held_out(self.run, when, found)

    def _checkpoint(self) -> None:
        """Only the main process writes; `ema/` holds the averaged weights in the same format."""
        if not self.processes.is_main:
            return

        def write(target: Path) -> None:
            tensors, facts = self.trainer.state()
            save_state(target / "state", tensors, {**facts, "seconds": self.seconds})
            self.policy.export(target)
            if self.trainer.ema is not None:
                with self.trainer.ema.applied():
                    self.policy.export(target / "ema")
            folder.write_config(target, self.config)
            (target / "README.md").write_text(model_card(self.config, self.trainer.updates))

        write_checkpoint(self.run, self.trainer.updates, write)

    def finish(self) -> dict[str, Any] | None:
        if self.config.evaluation:
            self._evaluate("after")
        self.accelerator.end_training()
        if not self.processes.is_main:
            return None
        held_out = self._compare() if self.config.evaluation else None
        write_report(self.run)
        return {
            "run": str(self.run),
            "held_out": held_out,
            "updates": self.trainer.updates,
            "alarms": [alarm.sentence for alarm in self.sentinels.raised.values()] if self.sentinels else [],
            "seconds": round(self.seconds, 1),
        }

    def _compare(self) -> dict[str, Any]:
        assert self.config.evaluation is not None
        metric = self.config.evaluation.metric
        before, after = (folder.load_scores(self.run, when)[metric] for when in ("before", "after"))
        found = compare(self.held_out, before, after, metric)
        (self.run / "held_out.json").write_text(json.dumps(found, indent=1))
        return {key: found[key] for key in ("metric", "before", "after", "ci95")}
