"""The numeric tests as other machines would round: other instruction sets, another number of threads.

    python tools/other_cpus.py                        # all variants, about as many times the suite's time
    python tools/other_cpus.py avx2 -- tests/sampling  # one variant, some folders; what follows -- goes to pytest

A variant is a name of `VARIANTS`. ATen and oneDNN choose their kernels when they are loaded, so each has processes of its own.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SSE41 = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
TWO = {"TEST_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
VARIANTS = {
    "native": {},
    "native, 2 threads": TWO,
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "sse41": SSE41,
    "sse41, 2 threads": {**SSE41, **TWO},
}
"""`native` is what this CPU has; `default` is ATen without vector instructions."""
FOLDERS = [f"tests/{room}" for room in ("core", "data", "sampling", "objective", "policies", "scoring", "runs", "evaluation")]
FOLDERS += [f"tests/{room}" for room in ("training", "rewards", "eval")]
NOT_NUMERIC = ("tests/scoring/test_serving.py", "tests/rewards/test_sandbox.py")
"""What starts processes and waits for them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"{', '.join(VARIANTS)} (all of them)")
    parser.add_argument("-n", "--processes", default="2", help="of pytest-xdist (2)")
    own, theirs = _split(sys.argv[1:])
    arguments = parser.parse_args(own)
    if unknown := [name for name in arguments.variants if name not in VARIANTS]:
        parser.error(f"no variant '{unknown[0]}'; there are: {', '.join(VARIANTS)}")
    command = [sys.executable, "-m", "pytest", "-q", "-n", arguments.processes, "--dist", "worksteal", *(theirs or FOLDERS)]
    command += [f"--ignore={file}" for file in NOT_NUMERIC]
    results = {name: tried(command, VARIANTS[name]) for name in arguments.variants or VARIANTS}
    print("| variant | result | seconds |\n|---|---|---|")
    print("\n".join(f"| {name} | {summary} | {seconds:.0f} |" for name, (_, summary, seconds) in results.items()))
    return int(any(code for code, _, _ in results.values()))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def tried(command: list[str], variant: dict[str, str]) -> tuple[int, str, float]:
    """Exit code, pytest's last line without its time, seconds."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": variant.get("TEST_THREADS", "1"), **variant}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, check=False)
    lines = done.stdout.splitlines()
    print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))), flush=True)
    return done.returncode, re.sub(r" in [\d.]+s.*", "", lines[-1]).strip("= "), time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
