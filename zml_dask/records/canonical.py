"""One way to write a hit, so that equal hits are equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical_json(hit: Mapping[str, Any]) -> str:
    r"""Write a hit as one line of ASCII: keys sorted, no spaces.

    Examples
    --------
    >>> canonical_json({"title": "Zürich", "id": 1})
    '{"id":1,"title":"Z\\u00fcrich"}'
    """
    return json.dumps(hit, sort_keys=True, separators=(",", ":"))
