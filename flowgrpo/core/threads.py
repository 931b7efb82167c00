"""How torch's threads wait for work."""

import os

SPINS = "2000"
"""How often a thread of GNU OpenMP, with which torch computes, looks for work before it sleeps. Its own 300,000 take the core
from whatever else runs: beside other busy processes an update of the quickstart takes 14 s with them and 2 to 3 s so, alone
0.8 s either way. The number of threads and all results stay the same."""


def wait_politely() -> None:
    """Before torch is imported, and unless the user says how threads wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
