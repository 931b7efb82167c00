"""Workers of a pool as actors on Ray: processes on this machine, or on any of the cluster that RAY_ADDRESS names."""

import io
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.core.signals import ORDERLY
from flowgrpo.training.fleet.pool import Lost

TOKENS = "RAY_AUTH_MODE"
CONNECTING = 10.0
WAITS = 30.0
"""Seconds until it is said that an actor waits for a place."""


class Answers(Protocol):
    """What runs in an actor."""

    def answer(self, job: Any) -> Any: ...


def connect(processes: Processes) -> Callable[[], None]:
    """All trainers join the cluster that RAY_ADDRESS names, or one that the first of them makes of this machine, without their
    cards. Returns the way to leave, which leaves alone what was joined before. Errors: UserError where Ray is not installed, or
    not there."""
    if find_spec("ray") is None:
        raise UserError("a fleet needs Ray; run: pip install 'flowgrpo[fleet]'")
    joined = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    address, mode = processes.once(lambda: _first(processes.device))
    if not processes.is_main:
        os.environ |= {TOKENS: mode} if mode else {}
        _join(address)
    import ray

    return (lambda: None) if joined else ray.shutdown


def _first(device: torch.device) -> tuple[str, str | None]:
    """The address of the cluster, and whether it asks for Ray's token: who joins has to know that before Ray is imported."""
    with _without_cards(device):
        _join(None)
    import ray

    return ray.get_runtime_context().gcs_address, os.environ.get(TOKENS)


def _join(address: str | None) -> None:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    where = address or os.environ.get("RAY_ADDRESS")
    _require_answer(where)
    own = {} if where else {"include_dashboard": False}
    with _handlers_kept():
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            why = str(error).splitlines()[0]
            raise UserError(
                f"no Ray cluster at {where or 'this machine'}: {why}; is it up, and {TOKENS} the same there?"
            ) from error


def _require_answer(where: str | None) -> None:
    """Ray itself waits for minutes for an address where nobody is. Errors: UserError."""
    host, _, port = (where or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTING).close()
    except OSError as error:
        said = f"no Ray cluster at {where} ({error.strerror or error}); start it with ray start, or unset RAY_ADDRESS"
        raise UserError(said) from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets handlers of signals that are the run's."""
    before = {number: signal.getsignal(number) for number in ORDERLY}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_cards(device: torch.device) -> Iterator[None]:
    """Inside, processes that are started do not see the cards of this machine's trainers."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device.type == "cuda":
        trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        os.environ["CUDA_VISIBLE_DEVICES"] = spare_cards(before, torch.cuda.device_count(), trainers)
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        elif device.type == "cuda":
            del os.environ["CUDA_VISIBLE_DEVICES"]


def spare_cards(visible: str | None, count: int, trainers: int) -> str:
    """Of the `visible` cards, or all `count`, those that the trainers leave: each has one, from the first on."""
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return ",".join(names[trainers:])


def cards(asked: float | None, trainer: torch.device) -> float:
    """Of an actor for which so many were asked; by default one where the trainer has one."""
    return float(trainer.type == "cuda") if asked is None else asked


class OnRay:
    """A worker: the actor that `make(*arguments)` makes, on `gpus` cards. It is ready once that is made, however long it has to
    wait for a place. An answer that takes `patience` seconds is not waited for. Errors: what `make` raises; `Lost`."""

    def __init__(self, kind: str, make: Callable[..., Answers], arguments: tuple[Any, ...], gpus: float, patience: float) -> None:
        import ray

        self.kind, self.gpus, self.patience = kind, gpus, patience
        self.made = (make, arguments)
        options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": "SPREAD", "max_restarts": 0}
        self.actor = ray.remote(type(make.__name__, (_Actor,), {})).options(**options).remote()

    def ready(self) -> None:
        import ray

        if not ray.wait([self.actor.is_there.remote()], timeout=WAITS)[0]:
            there = ray.cluster_resources().get("GPU", 0.0)
            print(
                f"flowgrpo: a {self.kind} waits for a place with {self.gpus:g} cards; the cluster has {there:g} beside those of "
                "trainers: let machines join it, or set fleet.gpus",
                file=sys.stderr,
            )
        self._got(self.actor.make.remote(os.getcwd(), sys.path, torch.get_num_threads(), *self.made), None)

    def ask(self, job: Any) -> Any:
        return self._got(self.actor.answer.remote(job), self.patience)

    def stop(self) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self.actor)

    def _got(self, reference: Any, seconds: float | None) -> Any:
        from ray import exceptions, get

        try:
            return get(reference, timeout=seconds)
        except exceptions.GetTimeoutError as error:
            raise Lost(f"has not answered for {seconds:g} s") from error
        except exceptions.RayTaskError as error:
            raise error.cause from error
        except exceptions.RayError as error:
            raise Lost(f"died ({type(error).__name__})") from error


class _Actor:
    """A process of the fleet, which is called after what it makes."""

    def is_there(self) -> None:
        pass

    def make(self, folder: str, path: list[str], threads: int, make: Callable[..., Answers], arguments: tuple[Any, ...]) -> None:
        os.chdir(folder)
        sys.path[:] = path
        torch.set_num_threads(threads)
        self.inside = make(*arguments)

    def answer(self, job: Any) -> Any:
        return self.inside.answer(job)


def shared(content: bytes) -> Any:
    """A reference for all processes of the fleet. It has to travel inside a list: Ray fetches the content of a bare one."""
    import ray

    return ray.put(content)


def fetched(reference: Any) -> bytes:
    import ray

    content: bytes = ray.get(reference)
    return content


def packed(content: Any) -> bytes:
    """For another process of this fleet."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def unpacked(content: bytes, device: torch.device) -> Any:
    """With its tensors on the device. It is whole objects, so it must come from this fleet."""
    where = "cpu" if device.type == "cpu" else device
    return torch.load(io.BytesIO(content), map_location=where, weights_only=False)
