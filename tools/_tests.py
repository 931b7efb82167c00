"""Imported first by tools that use the tiny pipelines of the tests: makes `import tiny` work."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))
