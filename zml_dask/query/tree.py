"""The files of a record as a nested dict: what 2018's readers, JSON and the terminal take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, Union

Tree: TypeAlias = dict[str, Union["Tree", int, None]]
"""A folder: name -> a folder, or a file's size in bytes (None where it is not known)."""

MAX_DEPTH = 200
"""Folders within folders. pickle and json recurse, and a hostile path may hold
thousands of slashes: what lies deeper keeps its slashes in one name."""


def build_tree(files: Iterable[tuple[str, int | None]]) -> Tree:
    """Arrange paths as a tree: folders are dicts, files are their sizes in bytes.

    If a file and a folder have one name, which is possible in an archive, the
    folder's name ends in a slash: no file's name can. If a path comes twice,
    the first one stays.

    Examples
    --------
    >>> build_tree([("a/b.py", 3), ("a/c.py", None), ("d", 1), ("d/e", 2)])
    {'a': {'b.py': 3, 'c.py': None}, 'd': 1, 'd/': {'e': 2}}
    """
    root: Tree = {}
    for path, size in files:
        *folders, name = path.split("/", MAX_DEPTH)
        node = root
        for folder in folders:
            node = _enter(node, folder)
        if isinstance(node.get(name), dict):
            node[f"{name}/"] = node.pop(name)
        node.setdefault(name, size)
    return root


def _enter(node: Tree, folder: str) -> Tree:
    """Return the folder called `folder` in `node`; create it if it is missing."""
    for name in (folder, f"{folder}/"):
        if name not in node:
            child: Tree = {}
            node[name] = child
            return child
        known = node[name]
        if isinstance(known, dict):
            return known
    # "x/" is only ever given to a folder: a part of a path holds no slash, but
    # the last one of a path deeper than MAX_DEPTH, which is a file, may.
    return _enter(node, f"{folder}/")
