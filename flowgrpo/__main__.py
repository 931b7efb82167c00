"""`python -m flowgrpo`, which is also what `accelerate launch -m flowgrpo` and `torchrun -m flowgrpo` start."""

import sys

from flowgrpo.cli.main import main

sys.exit(main())
