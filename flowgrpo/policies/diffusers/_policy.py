"""The policy over a diffusers pipeline."""

import copy
import inspect
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT, held, hold
from flowgrpo.core.keys import Key, torch_generator
from flowgrpo.core.parts import copies
from flowgrpo.core.paths import ASSET, locate
from flowgrpo.core.pretrained import require_all, require_vocabulary, whole_models
from flowgrpo.core.section import checked
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Latents, Samples
from flowgrpo.policies import Compile, _finite, autocasts
from flowgrpo.policies._compiled import compiles, evaluate_as_in_an_update, uncompiled
from flowgrpo.policies._dtypes import DTYPES, unit_roundoff
from flowgrpo.policies._fit import bars_on_a_terminal_only, in_a_sentence, loading
from flowgrpo.policies._hub import require_reachable
from flowgrpo.policies._offloaded import offload_activations
from flowgrpo.policies._sharded import Sharding
from flowgrpo.policies._weights import attach, digest_of_weights, saved, trainable
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers import _adapters as adapters
from flowgrpo.policies.diffusers._conditions import NEGATIVE, Rows
from flowgrpo.policies.diffusers._encode import Encoder, find_encoder
from flowgrpo.policies.diffusers._features import Features, by_state
from flowgrpo.policies.diffusers._guidance import Against
from flowgrpo.policies.diffusers._idle import Idle
from flowgrpo.policies.diffusers._index import absent
from flowgrpo.policies.diffusers._loop import Loop
from flowgrpo.policies.diffusers._memo import memoise_encoders
from flowgrpo.policies.diffusers._posing import Posing
from flowgrpo.policies.diffusers._runtime import apply, denoisers, quantised
from flowgrpo.policies.diffusers._schedule import read_schedule, with_one_step_scheduler
from flowgrpo.policies.diffusers._sizes import sized
from flowgrpo.policies.diffusers._split import Splitting
from flowgrpo.policies.diffusers._state import StateMap, find_state
from flowgrpo.policies.diffusers._table import PRIMED, REFUSED, SIGNED, UNCONDITIONED
from flowgrpo.policies.diffusers._tap import StepCall, Tap, own_randomness, watched
from flowgrpo.policies.diffusers._trace import NotRecorded
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.laws.gaussian import GaussianLaw
from flowgrpo.sampling.levels import Schedule

NUMBERS = count(1)
"""Of loaded pipelines that were passed in."""


def load_pipeline(config: DiffusersConfig, device: torch.device, sharding: Sharding | None = None) -> DiffusionPipeline:
    """A pipeline folder, `asset:NAME` or a hub id; safetensors only, no remote code. Or one that is loaded already.

    Without the checker that blackens pictures it does not like (SD 1.5): a black picture would be scored as if it were made.
    """
    pipe = held(config.model) if config.model.startswith(OBJECT) else _from_files(config, device)
    _finite.weights(pipe.components, config.model)
    for part in pipe.components.values():
        tokenizer = vars(part).get("tokenizer") if isinstance(part, ProcessorMixin) else part
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            require_vocabulary(tokenizer)
    pipe.set_progress_bar_config(disable=True)
    if "run_safety_checker" in dir(pipe):
        pipe.safety_checker = None
    apply(pipe, config, device, shared_out=sharding is not None)
    return pipe


def _from_files(config: DiffusersConfig, device: torch.device) -> DiffusionPipeline:
    model, path = config.model, locate(config.model)
    if model.startswith((ASSET, ".", "/", "~")) and not (path / "model_index.json").is_file():
        raise UserError(f"model '{model}': {path} is not a diffusers pipeline folder (no model_index.json)")
    require_reachable(model, config.revision)
    source = str(path) if path.exists() else model
    bars_on_a_terminal_only()
    with in_a_sentence(f"model '{model}'"), whole_models():
        options = {**quantised(config, device, source), **absent(path)}
        return DiffusionPipeline.from_pretrained(
            source, revision=config.revision, dtype=DTYPES[config.dtype], use_safetensors=True, **options
        )


def config_of(model: DiffusersConfig | DiffusionPipeline | Path | str, settings: Mapping[str, Any]) -> DiffusersConfig:
    """Errors: UserError for settings that don't fit, and for a pipeline that another policy has."""
    if isinstance(model, DiffusersConfig):
        return model
    if isinstance(model, DiffusionPipeline):
        stored = {value: key for key, value in DTYPES.items()}.get(next(iter(denoisers(model).values())).dtype)
        settings = ({"dtype": stored} if stored else {}) | dict(settings)
        model = hold(model, f"{type(model).__name__}-{next(NUMBERS)}", partial(_fingerprint, model))
    if not isinstance(model, str | Path):
        raise UserError(
            f"a model is a pipeline of diffusers, its folder or its hub id, and this is of type {type(model).__name__}"
        )
    return checked(DiffusersConfig, {"model": str(model), **settings}, "DiffusersPolicy")


def _fingerprint(pipe: DiffusionPipeline) -> str:
    """Of its class and all weights; adapters that a policy has attached count not."""
    weights = {
        f"{name}.{key}": value
        for name, module in pipe.components.items()
        if isinstance(module, nn.Module)
        for key, value in module.state_dict().items()
        if "lora_" not in key
    }
    return f"{type(pipe).__name__} {digest_of_weights(weights)}"


class PipelineSampler:
    """A pipeline as its users meet it: its own call, its own sampler."""

    def __init__(self, config: DiffusersConfig, device: torch.device, sharding: Sharding | None = None) -> None:
        self.config, self.device, self.sharding = config, device, sharding
        self.pipe = load_pipeline(config, device, sharding)
        networks, default = denoisers(self.pipe).values(), self.by_default(device)
        self.compiled = compiles("policy.runtime.compile", config.runtime.compile, default, networks, device)
        self.parameters = inspect.signature(type(self.pipe).__call__).parameters
        self.rows = Rows(type(self.pipe).__name__, self.parameters)
        self.maps: dict[Hashable, StateMap] = {}
        if config.spacing == "uniform" and "sigmas" not in self.parameters:
            raise UserError(f"{type(self.pipe).__name__} takes no sigmas, so policy.spacing must be 'pipeline'")

    @staticmethod
    def by_default(device: torch.device) -> Compile:
        """Whether blocks are compiled where the config leaves it open: what makes a few samples is done before a compiler is."""
        return "off"

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int, latents: bool = False) -> Samples:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        made = [self._called(prompts[rows], generators[rows], steps, latents) for rows in self.rows.calls(prompts)]
        states = [state for _, state in made if state is not None]
        samples = samples_of(torch.cat([pictures for pictures, _ in made]), prompts)
        return replace(samples, states=finished(torch.cat(states))) if latents else samples

    def _called(
        self, prompts: Sequence[Prompt], generators: list[torch.Generator], steps: int, latents: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What one call makes: pixels, and the state that they are decoded from."""
        known = self.state_map(prompts) if latents else None
        watching = watched(self.pipe.scheduler, known.calls) if known else nullcontext(deque[StepCall]())
        with self._autocast(), own_randomness(), watching as calls:
            output = self.pipe(**self._arguments(prompts, generators, steps), output_type="pt")[0]
        return self._pixels(output), known.sample(calls, len(prompts)).float() if known else None

    def state_map(self, prompts: Sequence[Prompt]) -> StateMap:
        """What of the latents is the state, in calls for such prompts."""
        key = self.config.batch_key(prompts[0])
        if key not in self.maps:
            tap, idle = Tap(self.pipe), Idle(denoisers(self.pipe))
            with self._autocast(), uncompiled():
                self.maps[key] = find_state(tap, idle, self._arguments(prompts[:1], torch.Generator()), DTYPES[self.config.dtype])
        return self.maps[key]

    def load(self, folder: Path) -> None:
        """What a run has trained: an adapter, or all weights of the denoisers."""
        if self.config.lora is not None:
            self.load_lora(folder)
            return
        for name, module in denoisers(self.pipe).items():
            if not (folder / name).is_dir():
                raise UserError(f"{folder}: no folder '{name}' with all weights in it; if a LoRA was trained, set policy.lora")
            with loading(folder / name):
                trained, info = type(module).from_pretrained(str(folder / name), use_safetensors=True, output_loading_info=True)
                require_all(folder / name, info["missing_keys"], info["unexpected_keys"])
                module.load_state_dict(trained.state_dict())

    def load_lora(self, folder: Path) -> None:
        adapters.load(self.pipe, denoisers(self.pipe), folder)

    def _pixels(self, output: Any) -> Tensor:
        pixels = pixels_of(output)
        return ((pixels + 1.0) / 2.0 if type(self.pipe).__name__ in SIGNED else pixels).clamp(0.0, 1.0)

    def _autocast(self) -> AbstractContextManager[Any]:
        config = self.config
        return torch.autocast(self.device.type, DTYPES[config.dtype], enabled=autocasts(config.dtype, config.lora is None))

    def _arguments(self, prompts: Sequence[Prompt], generator: Any, steps: int | None = None) -> dict[str, Any]:
        """Of the pipeline's call, with as many steps as a rollout has when it does not matter otherwise.

        A call that runs a part of its steps (strength < 1) says in `call` how many `num_inference_steps` a rollout is a part of.
        """
        steps = steps or self.config.steps
        if isinstance(generator, list) and len(generator) == 1:
            generator = generator[0]
        given = {**self.rows.arguments(prompts), "generator": generator}
        if self.config.spacing == "uniform":
            given["sigmas"] = [1.0 - i / steps for i in range(steps)]
        call = sized(self.config.call, prompts)
        negative = self.rows.negative(prompts, call.get(NEGATIVE) or "")
        if negative:
            call[NEGATIVE] = negative if isinstance(given.get("prompt"), list) else negative[0]
        for name, value in call.items():
            if name.startswith("negative_prompt") and isinstance(value, str) and isinstance(given.get("prompt"), list):
                given[name] = [value] * len(prompts)
        asked = call.get("num_inference_steps", self.config.steps)
        return {**call, "num_inference_steps": round(steps * asked / self.config.steps), **given}


class DiffusersPolicy(PipelineSampler):
    """A pipeline with what is trained attached to it. B states; latents [B, ...] as the pipeline keeps them, float32.

    `model` is a loaded pipeline, which is the policy's from then on, a pipeline folder, `asset:NAME`, a hub id, or a config that
    says all of it. `settings` are the keys of a config's section `policy`: `steps` (S transitions of a rollout), `call`, `lora`,
    `dtype`, ...; a loaded pipeline has the dtype that it was loaded in. `seed` keys the initial values of adapters.

    >>> call = {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 1}
    >>> policy = DiffusersPolicy("asset:mini-sd3", steps=3, call=call)
    >>> len(policy.generate([Prompt(0, "a red circle")], seeds=[0], steps=3))
    1
    """

    def __init__(
        self,
        model: Any,
        device: torch.device | str | None = None,
        seed: int = 0,
        sharding: Sharding | None = None,
        splitting: Splitting | None = None,
        **settings: Any,
    ) -> None:
        config = config_of(model, settings)
        super().__init__(config, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), sharding)
        name = type(self.pipe).__name__
        if name in REFUSED:
            raise UserError(f"{name} can't be trained: {REFUSED[name]}")
        self.needs_loss_scaling = config.dtype == "fp16"
        self.unit_roundoff = unit_roundoff(DTYPES[config.dtype])
        with_one_step_scheduler(self.pipe)
        for module in self.pipe.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()
                vars(module).setdefault("gradient_checkpointing", False)  # control nets that read it without having set it
        self.modules = denoisers(self.pipe)
        self.weights = attach(self.modules, config.lora, seed, sharding)
        if splitting:
            splitting(self.pipe, self.modules)
        if self.compiled:
            for module in self.modules.values():
                evaluate_as_in_an_update(module)
        if config.runtime.offload_activations:
            for module in self.modules.values():
                offload_activations(module)
        if sharding:
            sharding.lockstep.add(*self.modules.values())
        memoise_encoders(self.pipe)
        self.features = Features(self.modules)
        self.untaught = Loop(self.pipe, self.modules, name in PRIMED)
        self.by_size: dict[Hashable, tuple[Loop, Schedule]] = {}
        self.encoders: dict[Hashable, Encoder] = {}
        self.posing: Posing | None = None
        if matching := config.matching:
            noised = self._in_steps(matching.levels.grid)
            self.posing = Posing(matching, noised.schedule, noised.predict)

    def _in_steps(self, steps: int | None) -> "DiffusersPolicy":
        """The same weights, whose trajectories have as many steps; by default the same."""
        if steps is None:
            return self
        call = {**self.config.call}
        if "num_inference_steps" in call:
            call["num_inference_steps"] = round(steps * call["num_inference_steps"] / self.config.steps)
        other = copy.copy(self)
        other.config = self.config.model_copy(update={"steps": steps, "call": call})
        other.untaught = Loop(self.pipe, self.modules, type(self.pipe).__name__ in PRIMED)
        other.by_size = {}
        return other

    @staticmethod
    def by_default(device: torch.device) -> Compile:
        return "blocks" if device.type == "cuda" else "off"

    def loop(self, prompts: Sequence[Prompt]) -> Loop:
        """For pictures of the size that these prompts have."""
        return self._of_size(prompts)[0]

    def state_map(self, prompts: Sequence[Prompt]) -> StateMap:
        return self.loop(prompts).known

    def schedule(self, prompts: Sequence[Prompt]) -> Schedule:
        return self._of_size(prompts)[1]

    def _of_size(self, prompts: Sequence[Prompt]) -> tuple[Loop, Schedule]:
        key = self.config.batch_key(prompts[0])
        if key not in self.by_size:
            loop = copy.copy(self.untaught)
            with uncompiled():
                self.by_size[key] = loop, self._learn(loop, prompts[:1])
        return self.by_size[key]

    @torch.no_grad()
    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        loop = self.loop(prompts)
        generators = [torch_generator(key) for key in keys]
        calls = self.rows.calls(prompts)
        return torch.cat([loop.begin(self._arguments(prompts[rows], generators[rows]))[0] for rows in calls])

    @torch.no_grad()
    def _learn(self, loop: Loop, prompt: Sequence[Prompt]) -> Schedule:
        """At first use: what the pipeline does with its latents, and its noise levels."""
        if prompt[0].conditions and (reason := UNCONDITIONED.get(type(self.pipe).__name__)):
            raise UserError(f"{type(self.pipe).__name__} can't be trained with pictures or clips in its prompt rows: {reason}")
        with self._autocast():
            loop.learn(self._arguments(prompt, torch.Generator()), DTYPES[self.config.dtype])
        state, span = loop.begin(self._arguments(prompt, torch.Generator()))
        if span.length != self.config.steps:
            raise UserError(
                f"policy.steps = {self.config.steps}, but with this policy.call (strength, num_inference_steps) the pipeline "
                f"takes {span.length} steps; set policy.steps={span.length} and policy.call.num_inference_steps"
            )
        schedule = read_schedule(self.pipe.scheduler, span)
        if self.config.guidance_gradient == "conditional" and not loop.guidance.steps:
            self._learn_guidance(loop, state, prompt)
        with self._autocast():
            self._finish(loop, state, prompt)
        return schedule

    def _learn_guidance(self, loop: Loop, state: Tensor, prompt: Sequence[Prompt]) -> None:
        def evaluate(step: int) -> Tensor:
            return loop.called(state, step, self._arguments(prompt, torch.Generator()))

        with self._autocast():
            loop.guidance.learn(self.config.steps, evaluate, self.unit_roundoff)

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        return self._predicted(states, prompts, step, lambda rows: None)

    def predict_both(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> tuple[Tensor, Tensor | None]:
        against: list[Against] = []

        def noting(rows: slice) -> Against:
            against.append(Against())
            return against[-1]

        prediction = self._predicted(states, prompts, step, noting)
        found = [rows for each in against if (rows := each.rows) is not None]
        return prediction, torch.cat(found) if len(found) == len(against) and not self.untaught.primed else None

    def predict_from(self, states: Tensor, prompts: Sequence[Prompt], step: int, against: Tensor) -> Tensor:
        return self._predicted(states, prompts, step, lambda rows: Against(against[rows]))

    def _predicted(
        self, states: Tensor, prompts: Sequence[Prompt], step: int, against: Callable[[slice], Against | None]
    ) -> Tensor:
        loop = self.loop(prompts)
        with self._autocast():
            predictions = [
                loop.predict(states[rows], step, self._arguments(prompts[rows], torch.Generator()), against(rows))
                for rows in self.rows.calls(prompts)
            ]
        return predictions[0] if len(predictions) == 1 else torch.cat(predictions)

    def predict_together(self, asked: Sequence[tuple[Tensor, Sequence[Prompt], int]]) -> list[Tensor]:
        prompts, name = asked[0][1], type(self.pipe).__name__
        loop = self.loop(prompts)
        if any(len(self.rows.calls(each)) > 1 for _, each, _ in asked):
            raise UserError(f"{name} takes one sample a call, so there is nothing to join; set optimizer.join_steps to false")

        def few(samples: int) -> dict[str, Any]:
            return self._arguments([prompts[0]] * samples, torch.Generator())

        steps = [(states, step, self._arguments(each, torch.Generator())) for states, each, step in asked]
        try:
            with self._autocast():
                return loop.side_by_side.predict(loop, steps, few, self.unit_roundoff)
        except NotRecorded as reason:
            raise UserError(f"{name} can't join steps: {reason}; set optimizer.join_steps to false") from reason

    def require_watchable(self) -> None:
        self.features.require()

    @torch.no_grad()
    def watch(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> tuple[Tensor, Tensor]:
        with self.features(self.untaught.idle) as seen:
            prediction = self.predict(states, prompts, step)
        return prediction, by_state(seen, [len(prompts[rows]) for rows in self.rows.calls(prompts)])

    def law(self, moves: Sequence[Move], prompts: Sequence[Prompt]) -> GaussianLaw:
        return GaussianLaw.of(moves, self.schedule(prompts), self.device)

    def decode(self, states: Tensor, prompts: Sequence[Prompt]) -> Samples:
        loop = self.loop(prompts)
        with self._autocast(), torch.set_grad_enabled(states.requires_grad and torch.is_grad_enabled()):
            outputs = [self._finish(loop, states[rows], prompts[rows]) for rows in self.rows.calls(prompts)]
        return samples_of(torch.cat([self._pixels(output[0]) for output in outputs]), prompts)

    def picture_size(self, prompts: Sequence[Prompt]) -> tuple[int, int]:
        return self._encoder(prompts).size

    @torch.no_grad()
    def encode(self, pictures: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        encoder = self._encoder(prompts)
        if tuple(pictures.shape[2:]) != encoder.size:
            raise UserError(f"a picture is {wide(pictures.shape[2:])} and the model makes {wide(encoder.size)}; resize it")
        with self._autocast():
            return encoder(pictures)

    @torch.no_grad()
    def _encoder(self, prompts: Sequence[Prompt]) -> Encoder:
        """For pictures of the size that these prompts have; at first use it is found out, and tried on a picture."""
        key = self.config.batch_key(prompts[0])
        if key not in self.encoders:
            one, loop = prompts[:1], self.loop(prompts)
            state = self.start(one, [("encoder",)])
            with self._autocast():
                encoder = find_encoder(self.pipe, state, lambda given: self._finish(loop, given, one))
                ramp = torch.linspace(0.0, 1.0, 3 * encoder.size[0] * encoder.size[1]).view(1, 3, *encoder.size)
                encoder.require_faithful(ramp, lambda given: self.decode(given, one).images, type(self.pipe).__name__)
            self.encoders[key] = encoder
        return self.encoders[key]

    def latents(self, states: Tensor, prompts: Sequence[Prompt], levels: Sequence[int]) -> Latents | None:
        if "latents" not in self.config.makes:
            return None
        schedule = self.schedule(prompts)
        columns = [torch.tensor(column, device=states.device) for column in zip(*map(schedule.mixture, levels), strict=True)]
        return Latents(states, *columns)

    def _finish(self, loop: Loop, states: Tensor, prompts: Sequence[Prompt]) -> Any:
        return loop.finish(states, {**self._arguments(prompts, torch.Generator()), "output_type": "pt"})

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable(self.modules)

    def reference(self) -> AbstractContextManager[None]:
        return self.weights.reference()

    def export(self) -> Callable[[Path], None]:
        kept = self.sharding.gathered if self.sharding else copies
        states = {name: kept(saved(module, self.config.lora is not None)) for name, module in self.modules.items()}
        return partial(self._write, states)

    def _write(self, states: Mapping[str, dict[str, Tensor]], folder: Path) -> None:
        if lora := self.config.lora:
            adapters.save(self.pipe, self.modules, states, lora.alpha / lora.rank, folder)
        else:
            for name, state in states.items():
                holding(self.modules[name], state).save_pretrained(str(folder / name))


def holding(module: Any, state: Mapping[str, Tensor]) -> Any:
    """Another such module, with these weights."""
    with torch.device("meta"):
        copy = type(module).from_config(module.config)
    copy.load_state_dict(state, assign=True)
    return copy


def wide(size: Sequence[int]) -> str:
    """Of a height and a width."""
    return f"{size[1]} x {size[0]} pixels"


def finished(states: Tensor) -> Latents:
    """What is decoded, by its own sampler."""
    return Latents(states, torch.ones(len(states), device=states.device), torch.zeros(len(states), device=states.device))


def pixels_of(output: Any) -> Tensor:
    """[B, 3, H, W] pictures or [B, F, 3, H, W] clips in [0, 1], from what a pipeline calls its images or frames."""
    if isinstance(output, list):
        output = torch.stack([torch.as_tensor(item) for item in output])
    pixels = torch.as_tensor(output).float().cpu()
    if pixels.shape[-1] in (3, 4) and pixels.shape[-3] not in (3, 4):
        pixels = pixels.movedim(-1, -3)
    return pixels[..., :3, :, :]


def samples_of(pixels: Tensor, prompts: Sequence[Prompt]) -> Samples:
    texts, rows, groups = zip(*((p.text, p.metadata, p.index) for p in prompts), strict=True)
    return Samples(list(texts), list(rows), list(groups), _finite.pixels(pixels))
