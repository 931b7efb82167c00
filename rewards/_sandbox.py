"""Run untrusted Python in a process that can be thrown away: `run(source, limits) -> Outcome`.

What holds depends on the machine; `isolation()` says it. Linux only. The code has one process with one thread, the standard
library, an empty environment and an empty directory, and nothing else of the disk where "disk" holds.
"""

import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Literal

from flowgrpo.core.errors import UserError

Status = Literal["ok", "error", "timeout", "memory", "output", "killed"]
Guarantee = Literal["network", "home", "disk", "processes", "memory"]
Mode = Literal["namespaces", "uid", "plain"]
PYTHON = [os.path.realpath(sys.executable), "-I", "-S"]
UNSHARE = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
UNUSED = 0x7000_0000
"""User numbers from here to 0x7fffffff belong to nobody (systemd, `UIDS-GIDS`); every run gets its own."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
PACKAGES = ("site-packages", "dist-packages")
CALLS: dict[str, tuple[int, list[int]]] = {
    "x86_64": (0xC000003E, [29, 64, 68, 101, 165, 240, 248, 249, 250, 272, 308, 310, 311, 319, 321, 323, 425, 442, 447]),
    "aarch64": (0xC00000B7, [40, 97, 117, 180, 186, 190, 194, 217, 218, 219, 268, 270, 271, 279, 280, 282, 425, 442, 447]),
}
"""What the code may not ask of the kernel, by number: memory that no limit counts (System V and POSIX queues and segments,
memfd_create, memfd_secret), other processes (ptrace, process_vm_*), keys, namespaces, mounts, bpf, userfaultfd, io_uring."""


@dataclass(frozen=True)
class Limits:
    """`seconds` of wall clock, and of CPU per process; `memory_mb` of address space per process; `disk_mb` written.

    Threads count as processes. By default there is one, so `memory_mb` and `disk_mb` are all that a run can take.
    """

    seconds: float = 4.0
    memory_mb: int = 512
    disk_mb: int = 16
    processes: int = 1
    open_files: int = 64
    output_bytes: int = 65_536


@dataclass(frozen=True)
class Outcome:
    """How it ended. `stdout` has at most `output_bytes`; `reason` is one line for people; `isolation` is what held."""

    status: Status
    returncode: int
    stdout: str
    reason: str
    isolation: frozenset[Guarantee]


INIT = r"""
import ctypes, json, os, resource, signal, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
RDONLY, NOSUID, NODEV, BIND, RECURSIVE, DETACH = 1, 2, 4, 4096, 16384, 2
PR_SET_SECCOMP, X32, ALLOW, REFUSE = 22, 0x40000000, 0x7FFF0000, 0x50001
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 38, 24, 442, -100, 0x8000

def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def mount(source, target, kind, flags, data):
    check(libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()))

def attributes(path, flags, set_, clear):
    values = (ctypes.c_uint64 * 4)(set_, clear, 0, 0)
    check(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, values, ctypes.c_size_t(32)))

def show(path, root, flags):
    # The same place of a new root, read-only.
    inside = root + path
    if os.path.lexists(inside) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        open(inside, "x").close()
    mount(path, inside, "", BIND | RECURSIVE, "")
    attributes(inside, AT_RECURSIVE, RDONLY | flags, 0)

def hide(job):
    # A new root that holds Python, what it is linked to, and a directory to write to.
    root = job["folder"]
    mount("none", root, "tmpfs", NOSUID, "size=1m,nr_inodes=1k,mode=755")
    for path in job["visible"]:
        show(path, root, NOSUID | NODEV)
    for path in job["devices"]:
        show(path, root, NOSUID)
    for path in job["covered"]:
        if os.path.isdir(root + path):
            mount("none", root + path, "tmpfs", RDONLY, "size=4k,nr_inodes=2,mode=755")
    os.mkdir(root + job["inside"])
    mount("none", root + job["inside"], "tmpfs", NOSUID | NODEV, "size=%dm,nr_inodes=1k,mode=1777" % job["disk_mb"])
    attributes(root, 0, RDONLY, 0)
    os.chdir(root)
    check(libc.pivot_root(b".", b"."))
    check(libc.umount2(b".", DETACH))

def filtered(machine, calls):
    # Refuse these calls, and all of another architecture, with EPERM: a program for SECCOMP_SET_MODE_FILTER.
    ld, jeq, jge, ret = 0x20, 0x15, 0x35, 0x06
    program = [(ld, 0, 0, 4), (jeq, 0, len(calls) + 3, machine), (ld, 0, 0, 0), (jge, len(calls) + 1, 0, X32)]
    program += [(jeq, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    program += [(ret, 0, 0, ALLOW), (ret, 0, 0, REFUSE)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)))
    check(libc.prctl(PR_SET_SECCOMP, 2, head, 0, 0))

def limit(job):
    # A second more CPU than wall clock, so that the clock decides.
    seconds, memory, disk = int(job["seconds"]) + 2, job["memory_mb"] << 20, job["disk_mb"] << 20
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: disk,
        resource.RLIMIT_NPROC: job["processes"],
        resource.RLIMIT_NOFILE: job["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))

def drop(job):
    if os.getuid() == 0:
        for capability in range(64):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if job["uid"] is not None:
        os.setgroups([])
        os.setresgid(job["uid"], job["uid"], job["uid"])
        os.setresuid(job["uid"], job["uid"], job["uid"])
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))

def main(folder):
    with open(folder + "/job.json") as file:
        job = json.load(file)
    os.remove(folder + "/job.json")
    os.umask(0o022)
    if job["uid"] is not None:
        os.chown(folder, job["uid"], job["uid"])
    if job["namespaces"]:
        hide(job)
    os.chdir(job["inside"] if job["namespaces"] else folder)
    with open("main.py", "w") as file:
        file.write(job["source"])
    child = os.fork()
    if child == 0:
        drop(job)
        limit(job)
        if job["calls"] is not None:
            filtered(*job["calls"])
        os.execve(job["python"][0], [*job["python"], "main.py"], {})
    signal.signal(signal.SIGALRM, lambda *_: os._exit(124))
    signal.alarm(int(job["seconds"]) + 5)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)

main(sys.argv[1])
"""
"""The trusted first process: takes all away, then watches the untrusted one; in a pid namespace all die with it."""


def run(source: str, limits: Limits, stdin: str = "", pipes: Sequence[int] = ()) -> Outcome:
    """Nothing of it survives the call where `isolation()` holds "processes".

    `pipes` are file descriptors that the code has under the same numbers; they are closed here.
    """
    return _run(_mode(), source, limits, stdin, pipes)


@lru_cache(maxsize=1)
def isolation() -> frozenset[Guarantee]:
    """What is out of reach for the code here: the network, the home directories, the disk (but for Python's own library),
    surviving the call, and more memory than its limits say."""
    return _guarantees(_mode())


@lru_cache(maxsize=1)
def _mode() -> Mode:
    """The strictest that works on this machine, found by trying."""
    fallback: Mode = "uid" if os.getuid() == 0 else "plain"
    modes: tuple[Mode, ...] = ("namespaces", fallback) if shutil.which("unshare") else (fallback,)
    for mode in modes:
        if _run(mode, "print('works')", Limits(seconds=20.0)).stdout == "works\n":
            return mode
    raise UserError(
        f"untrusted code can't be run here: neither namespaces work nor can {PYTHON[0]} be run by an unprivileged user; "
        "install Python outside of the home directory"
    )


def _guarantees(mode: Mode) -> frozenset[Guarantee]:
    memory: frozenset[Guarantee] = frozenset({"memory"} if platform.machine() in CALLS else ())
    if mode == "namespaces":
        return memory | {"network", "home", "disk", "processes"}
    if mode == "uid":
        private = not Path.home().stat().st_mode & 0o007
        return memory | ({"processes", "home"} if private else {"processes"})
    return memory


def _run(mode: Mode, source: str, limits: Limits, stdin: str = "", pipes: Sequence[int] = ()) -> Outcome:
    uid = UNUSED + secrets.randbelow(UNUSED // 7) if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as feed:
        (Path(folder) / "job.json").write_text(json.dumps(_job(mode, source, limits, folder, uid)))
        feed.write(stdin.encode())
        feed.seek(0)
        try:
            return _watched([*_namespaces(mode), *PYTHON, "-c", INIT, folder], feed, pipes, limits, _guarantees(mode))
        finally:
            if mode == "uid":
                _kill_all_of(uid)


def _job(mode: Mode, source: str, limits: Limits, folder: str, uid: int | None) -> dict[str, Any]:
    visible = _visible()
    return {
        **asdict(limits),
        "source": source,
        "folder": folder,
        "inside": "/sandbox",
        "uid": uid,
        "namespaces": mode == "namespaces",
        "python": PYTHON,
        "visible": visible,
        "devices": DEVICES,
        "covered": [str(package) for path in visible for name in PACKAGES for package in Path(path).glob(f"python3*/{name}")],
        "calls": CALLS.get(platform.machine()),
    }


@lru_cache(maxsize=1)
def _visible() -> list[str]:
    """What Python needs of the disk, what is above first."""
    prefix = os.path.realpath(sys.base_prefix)
    of_python = [PYTHON[0], os.path.realpath(sysconfig.get_path("stdlib")), f"{prefix}/lib", f"{prefix}/lib64"]
    return sorted({*LIBRARIES, *of_python})


def _namespaces(mode: Mode) -> list[str]:
    """Root makes them itself and becomes somebody else inside; anyone else needs a user namespace to make them in."""
    if mode != "namespaces":
        return []
    return UNSHARE if os.getuid() == 0 else [*UNSHARE, "--user", "--map-root-user"]


def _watched(command: list[str], feed: Any, pipes: Sequence[int], limits: Limits, isolation: frozenset[Guarantee]) -> Outcome:
    out = subprocess.PIPE
    with subprocess.Popen(command, stdin=feed, stdout=out, stderr=out, env={}, start_new_session=True, pass_fds=pipes) as process:
        for pipe in pipes:
            os.close(pipe)
        try:
            stopped, stdout, stderr = _read(process, limits)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    lines = stderr.decode(errors="replace").strip().splitlines()
    last = lines[-1][:200] if lines else ""
    status = stopped or _status(code, last)
    return Outcome(status, code, stdout.decode(errors="replace"), _reason(status, code, last, limits), isolation)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[Status | None, bytes, bytes]:
    """Both outputs until the process ends, and what it has to be stopped for."""
    assert process.stdout is not None and process.stderr is not None
    end = time.monotonic() + limits.seconds
    outputs = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    stdout, stderr = outputs
    stopped: Status | None = None
    with DefaultSelector() as open_pipes:
        for pipe in outputs:
            open_pipes.register(pipe, EVENT_READ)
        while stopped is None and open_pipes.get_map():
            ready = open_pipes.select(max(0.0, end - time.monotonic()))
            for key, _ in ready:
                chunk = os.read(key.fd, limits.output_bytes)
                outputs[key.fd] += chunk
                if not chunk:
                    open_pipes.unregister(key.fd)
            if time.monotonic() >= end:
                stopped = "timeout"
            if sum(map(len, outputs.values())) > limits.output_bytes:
                stopped = "output"
    if stopped is None and not _ends(process, end - time.monotonic()):
        stopped = "timeout"
    return stopped, outputs[stdout][: limits.output_bytes], outputs[stderr][: limits.output_bytes]


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(max(seconds, 0.01))
    except subprocess.TimeoutExpired:
        return False
    return True


def _status(code: int, last: str) -> Status:
    """Of a process that ended by itself; the first process turns a signal into 128 + its number."""
    if code == 0:
        return "ok"
    if last.startswith("MemoryError"):
        return "memory"
    if code == 128 + signal.SIGXCPU:
        return "timeout"
    return "killed" if code < 0 or code > 128 else "error"


def _reason(status: Status, code: int, last: str, limits: Limits) -> str:
    return {
        "ok": "",
        "error": last or f"exit code {code}",
        "timeout": f"more than {limits.seconds:g} s",
        "memory": f"more than {limits.memory_mb} MB of memory",
        "output": f"more than {limits.output_bytes} bytes of output",
        "killed": f"killed by signal {code - 128 if code > 128 else -code}",
    }[status]


def _kill_all_of(uid: int | None) -> None:
    """Every process of the run's own user, wherever it hid: kill(-1) takes all at once, so nothing can fork past it."""
    code = f"import os; os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid}); os.kill(-1, 9)"
    subprocess.run([*PYTHON, "-c", code], stderr=subprocess.DEVNULL, check=False)
