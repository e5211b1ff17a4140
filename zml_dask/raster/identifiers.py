"""The identifiers of languages that a build may choose from: linguist's rules, and Magika.

Magika, Google's model of content, is slower and blind to names: an option for all
files, behind the extra ``magika``. The model lies in the package, so nothing is
fetched when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from zml_dask.errors import UsageError
from zml_dask.raster.language import UNKNOWN, Identity, identify, identity_of

LIKELY = 0.8
"""Below this probability the name and linguist's rules decide."""

# Only labels that a capital letter alone does not make linguist's names.
NAMES: Mapping[str, str] = {
    "asm": "Assembly",
    "batch": "Batchfile",
    "bazel": "Starlark",
    "clojure": "Clojure",
    "cmake": "CMake",
    "cobol": "COBOL",
    "coffeescript": "CoffeeScript",
    "cpp": "C++",
    "cs": "C#",
    "csv": "CSV",
    "dockerfile": "Dockerfile",
    "gitignore": "Ignore List",
    "ini": "INI",
    "ipynb": "Jupyter Notebook",
    "javascript": "JavaScript",
    "latex": "TeX",
    "matlab": "MATLAB",
    "objectivec": "Objective-C",
    "ocaml": "OCaml",
    "php": "PHP",
    "powershell": "PowerShell",
    "rst": "reStructuredText",
    "shell": "Shell",
    "sql": "SQL",
    "svg": "SVG",
    "toml": "TOML",
    "tsv": "TSV",
    "txt": "Text",
    "typescript": "TypeScript",
    "vba": "VBA",
    "verilog": "Verilog",
    "vhdl": "VHDL",
    "xml": "XML",
    "yaml": "YAML",
}
"""Magika's label -> linguist's name."""


def identify_with_magika(path: str, head: bytes) -> Identity:
    """Name the language of a file by its content; by its name where Magika is not sure.

    Parameters
    ----------
    head : bytes
        The first bytes of its normalised text; ``b""`` for what is no text.

    Raises
    ------
    UsageError
        If the package is not installed.
    """
    by_name = identify(path, head)
    if not head.strip():
        return by_name
    found = magika().identify_bytes(head)
    if found.prediction.score < LIKELY:
        return by_name
    label = str(found.prediction.output.label)
    named = identity_of(NAMES.get(label, label.capitalize()))
    # What is no language to linguist ("unknown", "txt" of a licence) is left to the name.
    return named if named is not UNKNOWN and named.language != "Text" else by_name


@cache
def magika() -> Any:
    """Load the model, once a process.

    Raises
    ------
    UsageError
        If its package is not installed.
    """
    try:
        from magika import Magika
    except ImportError as error:
        raise UsageError(
            "--language magika needs Magika: pip install 'zml-dask[magika]' (its extra 'magika')"
        ) from error
    return Magika()


Identifier = Callable[[str, bytes], Identity]
"""Takes a path and the head of the normalised text."""

IDENTIFIERS: Mapping[str, Identifier] = {"linguist": identify, "magika": identify_with_magika}


def extra_missing(name: str) -> bool:
    """Tell whether an identifier needs a package that is not installed.

    Examples
    --------
    >>> extra_missing("linguist")
    False
    """
    return name == "magika" and find_spec("magika") is None
