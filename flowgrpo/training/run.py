"""A training run from config to report: probe, calibrate, evaluate, train, checkpoint, evaluate, write it all down."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from flowgrpo.config.run import Config
from flowgrpo.core.errors import NotFinite, UserError, short
from flowgrpo.core.pin import renew
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.core.signals import Paused, Signals, Stopped
from flowgrpo.core.whole import require_writable
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.records import Record
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.exam import Exam, answer
from flowgrpo.evaluation.held_out import compare, scores_by_label
from flowgrpo.policies._sharded import Sharding
from flowgrpo.policies.prompt_check import check_files, tell
from flowgrpo.policies.protocol import Policy
from flowgrpo.runs.checkpoint import damaged, load_state, newest_whole, set_aside, tidy
from flowgrpo.runs.folder import PREFIX, When
from flowgrpo.runs.provenance import Provenance, Resumed
from flowgrpo.runs.report import write_report
from flowgrpo.runs.run import Run
from flowgrpo.scoring.combine import sum_range
from flowgrpo.scoring.scorer import Scorer, constant, probe, require_slope
from flowgrpo.training.calibration import calibrate, with_levels
from flowgrpo.training.checkpoints import Checkpoints
from flowgrpo.training.fleet.on_ray import connect
from flowgrpo.training.fleet.rewards import Judges
from flowgrpo.training.fleet.rollouts import Rollers
from flowgrpo.training.pairs import judged_by_files, require_pictures, with_pictures
from flowgrpo.training.required import require_read
from flowgrpo.training.sentinels import Sentinels, why_idle
from flowgrpo.training.trainer import Trainer
from flowgrpo.training.tree import save_tree

PROBE_PROMPTS = 32
SLOPE_PROMPTS = 8
"""Fewer, since a gradient takes memory."""

OnUpdate = Callable[[Mapping[str, Any]], object]
"""Sees the metrics of every update; what it returns is compared with STOP."""
STOP = "stop"


def train(
    config: Config,
    provenance: Provenance,
    resume: Resumed | None = None,
    policy: Policy | None = None,
    on_update: OnUpdate | None = None,
) -> Run:
    """Train, in a new folder called after the provenance's recipe, or on with a run.

    `policy` is trained where it is given, instead of one that the config builds; it ends with the run's final weights, their
    average if the config keeps one. `on_update` is called on the main process after every update, and may end the run there.
    Errors: UserError, and Stopped for a signal (Paused for a patient one, which lets an update end); each says how to go on,
    and what was trained is kept.
    """
    return Training(config, provenance, resume, policy, on_update)()


class Training:
    def __init__(
        self,
        config: Config,
        provenance: Provenance,
        resume: Resumed | None,
        policy: Policy | None = None,
        on_update: OnUpdate | None = None,
    ) -> None:
        self.config, self.provenance, self.resume = config, provenance, resume
        self.given, self.on_update = policy, on_update
        self.processes = Processes.alone()
        self.stopped = False
        """Whether an alarm or `on_update` ends the run."""
        self.signals = Signals()
        self.started: Run | None = Run(resume.run) if resume else None
        self.working = False
        """Whether an update has begun that a patient signal waits for."""
        self.settled = 0
        """How many updates are whole and in metrics.jsonl."""
        self.seconds = 0.0
        self.sentinels = Sentinels(config.sentinels, config.rewards)
        self.left_out: list[str] = []
        """What there is to know of training rows that can't be used."""
        self.checkpoints = Checkpoints(config, self.processes)

    def __call__(self) -> Run:
        with self.signals, ExitStack() as self.held:
            try:
                self._prepare()
                self._begin()
                self._loop()
                return self._finish()
            except NotFinite as error:
                raise NotFinite(joined(str(error), self._keep(saving=False))) from error
            except UserError as error:
                raise UserError(joined(str(error), self._keep())) from error
            except OSError as error:
                raise UserError(joined(f"{short(error.filename or error)}: {error.strerror}", self._keep())) from error
            except Paused as pause:
                raise self._paused(pause) from pause
            except KeyboardInterrupt as stop:
                raise Stopped(joined(f"{stop or 'an interrupt'} ended the run", self._keep())) from stop
            except Exception:
                print(joined("flowgrpo: the run ended with an error", self._keep()), file=sys.stderr)
                raise

    def _prepare(self) -> None:
        """Everything that can be wrong before the first update, the cheapest first."""
        config = self.config
        self.accelerator = Accelerator(
            log_with=None if config.tracker == "none" else config.tracker,
            project_dir=config.output,
            cpu=not torch.cuda.is_available(),
        )
        self.processes = Processes.of(self.accelerator, config.distributed.team(self.accelerator.num_processes))
        if self.given and (self.processes.team > 1 or config.distributed.shared_by(self.processes.count) > 1):
            raise UserError(
                "distributed divides a policy that the config names, and train() was given another; set distributed.type to "
                "replicate and distributed.context to 1"
            )
        self.checkpoints = Checkpoints(config, self.processes)
        if self.processes.is_main:
            require_writable(config.output, "output")
            if self.started:
                self.held.enter_context(self.started.locked())
            tell(config.rehearsal)
        self._open_fleet()
        files = self._files()
        prompts = files[config.rollout.prompts]
        notes = check_files(config.policy, files)
        self.policy: Policy = self.given or self._built()
        notes = check_files(config.policy, files) if notes is None else notes
        if self.processes.team > 1:
            self._try_sizes(row for rows in files.values() for row in rows)
        if self.started is None and (probed := self.held_out if config.rollout.plan.columns else prompts):
            self._probe(probed)
        if self.started is None:
            self.started = self.processes.once(self._new_run)
        if self.processes.is_main:
            notes = [*(notes or []), *self.left_out]
            self.run.save_notes(notes)
            tell(notes)
        trained, scorer = self._calibrated(prompts), self.scorer
        if config.rollout.plan.columns:
            require_pictures(self.policy, prompts)
            trained = judged_by_files(trained)
            scorer = Scorer(trained.rewards)
        self.trainer = Trainer(trained, self.policy, prompts, scorer, self.processes, rollers=self._rollers(trained))
        self.signals.busy, self.signals.working = self._busy, lambda: self.working
        if config.tracker != "none":
            self.accelerator.init_trackers("flowgrpo", config=config.model_dump(mode="json"))

    def _built(self) -> Policy:
        config, processes = self.config, self.processes
        if processes.team > 1:
            return config.policy.build_split(processes.device, config.seed, processes)
        cards = config.distributed.shared_by(processes.count)
        if cards == 1:
            return config.policy.build(processes.device, config.seed)
        return config.policy.build_sharded(processes.device, config.seed, Sharding(processes, cards))

    def _try_sizes(self, prompts: Iterable[Prompt]) -> None:
        """That a sequence can't be divided shows when it is computed: once for each size, before the first update."""
        for prompt in {self.config.policy.batch_key(prompt): prompt for prompt in prompts}.values():
            with torch.no_grad():
                self.policy.predict(self.policy.start([prompt], [("sizes",)]), [prompt], 0)

    def _open_fleet(self) -> None:
        """Rewards in processes of their own are loaded while this one loads the policy."""
        config, self.elsewhere = self.config, dict[str, Judges]()
        if not config.fleet.wanted:
            return
        if self.given:
            raise UserError("a fleet loads the policy that the config names, and train() was given another; take one of them")
        if short := config.fleet.lacks(self.processes.count):
            raise UserError(short)
        self.held.callback(connect(self.processes))
        for label in config.fleet.rewards:
            self.elsewhere[label] = Judges(label, config.rewards[label], config.fleet, self.processes)
            self.held.callback(self.elsewhere[label].close)

    def _rollers(self, config: Config) -> Rollers | None:
        """They load the policy while the untrained one is evaluated."""
        if not config.fleet.rollout:
            return None
        rollers = Rollers(config, self.processes)
        self.held.callback(rollers.close)
        return rollers

    def _files(self) -> dict[str, list[Prompt]]:
        """The prompts of each file, every row checked by the rewards."""
        config, evaluation = self.config, self.config.evaluation
        files = {config.rollout.prompts: load_prompts(config.rollout.prompts)}
        pairs = {config.rollout.prompts} if config.rollout.plan.columns else {*()}
        for source in pairs:
            files[source], self.left_out = with_pictures(files[source], source)
        if evaluation:
            files[evaluation.prompts] = load_prompts(evaluation.prompts)
        self.held_out = spread(files[evaluation.prompts], evaluation.limit) if evaluation else []
        self.scorer = Scorer(config.rewards, self.elsewhere)
        self.scorer.require(config.policy.makes, f"policy '{config.policy.type}' makes")
        if config.shape().scored:
            self.scorer.require_noisy()
        if config.objective.surrogate.needs_gradient:
            self.scorer.require_differentiable()
        for source in files.keys() - pairs:
            self.scorer.check(files[source], source)
        ends = sum_range(self.scorer.cards, config.rewards)
        for transform in config.transforms:
            ends = ends and transform.ends(*ends, config.rollout.group_size)
        if ends and (complaint := config.advantage.baseline.range_complaint(*ends)):
            raise UserError(complaint)
        comparing = [label for label, card in self.scorer.cards.items() if card.compares and config.rewards[label].weight]
        if comparing and config.rollout.group_size == 1:
            raise UserError(f"reward '{comparing[0]}' compares samples, and with rollout.group_size = 1 a prompt has one")
        require_read(config, files[config.rollout.prompts])
        if evaluation and self.scorer.cards[evaluation.metric].compares:
            raise UserError(
                f"evaluation.metric '{evaluation.metric}' compares samples, and a held-out prompt has one; name another"
            )
        return files

    @property
    def run(self) -> Run:
        assert self.started is not None, "it is made before the first update"
        return self.started

    def _new_run(self) -> Run:
        run = Run.begin(self.config.output, self.provenance.recipe)
        self.held.enter_context(run.locked())
        run.save_config(self.config)
        self.provenance.save(run.path)
        return run

    def _calibrated(self, prompts: list[Prompt]) -> Config:
        """The config to train with; what was calibrated once stays with the run."""
        if self.config.calibration is None:
            return self.config
        known = self.run.calibration
        if known is None:
            calibration = calibrate(self.config, self.policy, prompts, self.scorer, self.processes)
            known = asdict(calibration)
            if self.processes.is_main:
                self.run.save_calibration(known)
        return with_levels(self.config, known["levels"])

    def _begin(self) -> None:
        """Restore the last checkpoint, or evaluate the untrained policy."""
        if self.resume:
            self._restore(self.resume)
        if self.config.evaluation and len(self.processes.once(partial(self.run.records, "before"))) < len(self.held_out):
            if self.trainer.updates:
                lost = self.run.scores_file("before")
                raise UserError(f"{lost} is missing or cut short; it can't be made again after training began: bring it back")
            self._evaluate("before", self.held_out)

    def _restore(self, resume: Resumed) -> None:
        run = self.run
        if resume.automatic:
            checkpoint = self.processes.once(partial(newest_whole, run.path, self.trainer.kinds))
        else:
            checkpoint = resume.checkpoint or next(reversed(run.checkpoints), None)
        if checkpoint:
            tensors, facts = load_state(checkpoint, self.trainer.kinds)
            try:
                self.trainer.load(tensors, facts)
            except (ValueError, KeyError) as error:
                raise damaged(checkpoint / "state", checkpoint, f"can't be used ({error})") from error
            self.seconds = facts["seconds"]
        done = self.settled = self.trainer.updates
        if done > self.config.updates:
            raise UserError(f"{run} has {done} updates already, and updates = {self.config.updates}; set updates={done} or more")
        if self.processes.is_main:
            tidy(run.path)
            set_aside(later for later in run.checkpoints if checkpoint is None or later.name > checkpoint.name)
            run.rewind_metrics(done)
            run.save_config(self.config)
        rows = self.processes.once(lambda: run.metrics)
        for row in rows:
            self.sentinels.see(row)
        self.stopped = self.sentinels.stop
        if self.processes.is_main and (self.sentinels.raised or run.alarms):
            run.save_alarms(self.sentinels.raised)
        if self._evaluates(done) and not any(row["update"] == done - 1 and "reward" not in row for row in rows):
            self._evaluate_between()

    def _probe(self, prompts: list[Prompt]) -> None:
        """A reward may be constant where the weights that it judges are random."""
        config = self.config
        chosen = spread(prompts, PROBE_PROMPTS)
        exam = Exam(chosen, config.policy.steps, config.seed, PROBE_PROMPTS, config.policy.batch_key)
        check = constant if config.rehearsal else probe
        samples = exam.samples(exam.batches[0], self.policy, self.scorer.reads_latents)
        check(self.scorer, samples)
        if config.objective.surrogate.needs_gradient:
            require_slope(self.scorer, samples[:SLOPE_PROMPTS])

    def _loop(self) -> None:
        self._meet()
        for _ in bar(range(self.trainer.updates, self.config.updates), "train", self.processes.is_main):
            if self.stopped:
                break
            self.working = True
            self._update()
            self.working = False
            self._meet()
            done = self.trainer.updates
            if evaluated := self._evaluates(done):
                self._evaluate_between()
            if self.processes.once(partial(self.checkpoints.due, done, evaluated, self._last(done))):
                self.checkpoints(self.run, self.trainer, self.seconds)

    def _meet(self) -> None:
        """All processes are here: they end together, after the same update."""
        self.signals.meet(self.processes.gather_all)

    def _update(self) -> None:
        """One update and all that is said of it. The rollout is gone when it ends."""
        start = time.perf_counter()
        metrics, blocks, scored = self.trainer.update()
        self.seconds += time.perf_counter() - start
        self._watch(metrics)
        self.stopped = self.sentinels.stop
        if self.on_update is not None:
            self.stopped |= self.processes.once(partial(self.on_update, metrics)) == STOP
        if self._last(self.trainer.updates) and self.processes.is_main:
            save_tree(self.run.path, blocks[0], scored)
        self._record(metrics)
        self.settled = self.trainer.updates

    def _last(self, done: int) -> bool:
        return done == self.config.updates or self.stopped

    def _evaluates(self, done: int) -> bool:
        evaluation = self.config.evaluation
        return bool(done and evaluation and evaluation.every and done % evaluation.every == 0 and not self._last(done))

    def _busy(self) -> bool:
        """Whether an update is neither undone nor done."""
        return not (self.trainer.whole and self.trainer.updates == self.settled)

    def _keep(self, saving: bool = True) -> str:
        """Save, where this process can do so alone; how to go on, once all is written."""
        try:
            self.checkpoints.settle()
            if saving and self.processes.lockstep is None:
                self._save()
        except UserError as error:
            return str(error)
        return self._way_on()

    def _save(self) -> None:
        """Write a checkpoint of what is done, if the last one is older."""
        self.checkpoints.settle()
        if self.settled and not self._busy() and not (self.run.path / f"{PREFIX}{self.settled:06d}").is_dir():
            self.checkpoints(self.run, self.trainer, self.seconds)
            self.checkpoints.settle()

    def _paused(self, pause: Paused) -> Paused:
        """Saved, with the sentence of the main process. Errors: UserError where that could not be written."""
        try:
            self._save()
        except UserError as error:
            raise UserError(f"{pause} ended the run; {error}") from error
        said = f"{pause} ended the run; {self._way_on() or 'begin it again'}"
        return Paused(said if self.processes.is_main else "")

    def _way_on(self) -> str:
        if self.config.rehearsal or self.started is None or not self.processes.is_main or not self.run.path.is_dir():
            return ""
        whole = self.run.checkpoints
        return f"{f'{whole[-1].name} is kept' if whole else 'no update was kept'}; go on with --resume {self.run}"

    def _watch(self, metrics: dict[str, Any]) -> None:
        """Show the sentinels an update, and pass on what they say."""
        fresh = self.sentinels.see(metrics)
        if not self.processes.is_main:
            return
        if self.trainer.critic and self.trainer.critic.news:
            print(f"flowgrpo: update {metrics['update']}: {self.trainer.critic.news}", file=sys.stderr)
        if "compiling" in metrics:
            print(f"flowgrpo: update {metrics['update']}: compiling took {metrics['compiling']:g} s", file=sys.stderr)
        if self.sentinels.idle == 1:
            print(f"flowgrpo: update {metrics['update']} had no optimizer step: {why_idle(metrics)}", file=sys.stderr)
        if fresh:
            self.run.save_alarms(self.sentinels.raised)
            print(*(f"flowgrpo: update {alarm.update}: {alarm.sentence}" for alarm in fresh), sep="\n", file=sys.stderr)

    def _record(self, metrics: dict[str, Any]) -> None:
        if not self.processes.is_main:
            return
        self.run.append_metrics(metrics)
        self.accelerator.log(metrics, step=metrics["update"])

    def _between(self) -> list[Prompt]:
        assert self.config.evaluation is not None
        return spread(self.held_out, self.config.evaluation.limit_between)

    def _evaluate_between(self) -> None:
        scores = scores_by_label(self._evaluate("latest", self._between()))
        means = {f"held_out/{label}": float(values.mean()) for label, values in scores.items()}
        self._record({"update": self.trainer.updates - 1, **means})

    def _evaluate(self, when: When, prompts: list[Prompt]) -> list[Record]:
        """One sample per prompt, scored alone. Kept to look at are always the same prompts."""
        evaluation = self.config.evaluation
        assert evaluation is not None
        pictured = {prompt.index for prompt in spread(self._between(), evaluation.pictures)}
        batch_key = self.config.policy.batch_key
        exam = Exam(prompts, evaluation.steps, evaluation.seed, evaluation.batch, batch_key, pictured=pictured)
        self.processes.once(partial(renew, self.run.samples(when), {"updates": self.trainer.updates}))
        with self.trainer.ema.applied() if self.trainer.ema else nullcontext():
            return answer(
                exam, lambda: self.policy, self.scorer, self.run.scores_file(when), "evaluate", self.processes, meet=self._meet
            )

    def _finish(self) -> Run:
        if self.config.evaluation:
            self._evaluate("after", self.held_out)
        self.checkpoints.settle()
        self.accelerator.end_training()
        if self.processes.is_main:
            self._conclude()
        if self.given and self.trainer.ema:
            self.trainer.ema.settle()
        return self.run

    def _conclude(self) -> None:
        held_out = self._compare() if self.config.evaluation else None
        self.run.save_summary(
            {
                **({"rehearsal": self.config.rehearsal[0]} if self.config.rehearsal else {}),
                "run": str(self.run),
                "held_out": held_out,
                "updates": self.trainer.updates,
                "alarms": [alarm.sentence for alarm in self.sentinels.raised.values()],
                "seconds": round(self.seconds, 1),
            }
        )
        write_report(self.run)

    def _compare(self) -> dict[str, Any]:
        assert self.config.evaluation is not None
        metric = self.config.evaluation.metric
        comparison = compare(self.held_out, self.run.scores("before", metric), self.run.scores("after", metric), metric)
        self.run.save_held_out(comparison)
        return {key: comparison[key] for key in ("metric", "before", "after", "ci95")}


def joined(sentence: str, way_on: str) -> str:
    return f"{sentence}; {way_on}" if way_on else sentence
