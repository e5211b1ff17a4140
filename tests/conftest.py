"""What all rooms' tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# No test depends on time passing, so no example has a deadline; CI is derandomised.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
