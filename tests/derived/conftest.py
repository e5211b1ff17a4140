"""Tables are derived of the datasets that the tests of the store build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
