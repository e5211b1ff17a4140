"""Ways to identify languages in a build: linguist's rules, and Magika.

Magika, Google's model for contents, is slower and does not use names. It is an option for all
files, with the extra ``magika``. Its package contains the model, so that nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from zml_dask.errors import UsageError
from zml_dask.raster.language import UNKNOWN, Identity, identify, identity_of

LIKELY = 0.8
"""Below this probability, the name and linguist's rules are used."""

# Only labels that are not linguist's names with a small first letter.
NAMES: Mapping[str, str] = {
    "asm": "Assembly", "batch": "Batchfile", "bazel": "Starlark", "clojure": "Clojure",
    "cmake": "CMake", "cobol": "COBOL", "coffeescript": "CoffeeScript", "cpp": "C++", "cs": "C#",
    "csv": "CSV", "dockerfile": "Dockerfile", "gitignore": "Ignore List", "ini": "INI",
    "ipynb": "Jupyter Notebook", "javascript": "JavaScript", "latex": "TeX", "matlab": "MATLAB",
    "objectivec": "Objective-C", "ocaml": "OCaml", "php": "PHP", "powershell": "PowerShell",
    "rst": "reStructuredText", "shell": "Shell", "sql": "SQL", "svg": "SVG", "toml": "TOML",
    "tsv": "TSV", "txt": "Text", "typescript": "TypeScript", "vba": "VBA", "verilog": "Verilog",
    "vhdl": "VHDL", "xml": "XML", "yaml": "YAML",
}  # fmt: skip
"""Magika's labels, and linguist's names."""


def identify_with_magika(path: str, head: bytes) -> Identity:
    """Return the language of a file by its content, or by its name where Magika is uncertain.

    `head` is the beginning of its normalised text; ``b""`` if it is not text.
    """
    by_name = identify(path, head)
    if not head.strip():
        return by_name
    found = magika().identify_bytes(head)
    if found.prediction.score < LIKELY:
        return by_name
    label = str(found.prediction.output.label)
    named = identity_of(NAMES.get(label, label.capitalize()))
    # For what is no language to linguist ("unknown", or "txt" for a licence) the name is used.
    return named if named is not UNKNOWN and named.language != "Text" else by_name


@cache
def magika() -> Any:
    """Load the model, once per process; `UsageError` if its package is not installed."""
    try:
        from magika import Magika
    except ImportError as error:
        raise UsageError(
            "--language magika needs Magika: pip install 'zml-dask[magika]' (its extra 'magika')"
        ) from error
    return Magika()


Identifier = Callable[[str, bytes], Identity]
"""A function of a path and the beginning of the normalised text."""

IDENTIFIERS: Mapping[str, Identifier] = {"linguist": identify, "magika": identify_with_magika}


def extra_missing(name: str) -> bool:
    """Tell whether an identifier needs a package that is not installed.

    Examples
    --------
    >>> extra_missing("linguist")
    False
    """
    return name == "magika" and find_spec("magika") is None
