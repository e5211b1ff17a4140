"""Makes the files of pickles.zip: run by Python 2.7 and by Python 3.6, both with NumPy 1.14.

``python make_pickles.py 36 FOLDER`` writes ``py36_images_p<protocol>.pkl`` and
``py36_metadata_p<protocol>.pkl``, as the first edition's job pickled them, in
every protocol that the interpreter knows.
"""
# Python 2 runs this too:
# ruff: noqa: PTH118, PTH123, UP004, UP010, UP031

from __future__ import unicode_literals

import os
import pickle
import sys
import types

import numpy as np


class Node(object):
    def __init__(self, name):
        self.name = name
        self.children = []


class ContainerFileTree(object):
    def __init__(self, paths):
        self.root = Node("/")
        self.count = 0
        for path in paths:
            self.root.children.append(Node(path))
            self.count += 1


def pose_as_containertree():
    """Give the classes the module that the tree class of 2018 is pickled under."""
    for name in ("containertree", "containertree.tree", "containertree.tree.files"):
        module = sys.modules[name] = types.ModuleType(str(name))
    for cls in (Node, ContainerFileTree):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)


def row(text):
    return [ord(character) for character in text.ljust(80)[:80]]


def segment(rows):
    return np.array([row(text) for text in rows], dtype="int64")


IMAGES = {
    "owner-repo-1a2b3c4/src/a.py": [
        segment(["x = %d" % i for i in range(80)]),
        segment(["\xe9 = \u20ac"]),
    ],
    "owner-repo-1a2b3c4/R\xe9adme": [segment(["hello"] * 31), np.zeros((0, 0), dtype="int64")],
}
HIT = {"id": 7, "metadata": {"title": "Ti\xe9le", "keywords": ["a"]}, "big": 10**12}

if __name__ == "__main__":
    tag, folder = sys.argv[1:]
    pose_as_containertree()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        stem = os.path.join(folder, "py%s_%%s_p%d.pkl" % (tag, protocol))
        with open(stem % "images", "wb") as stream:
            pickle.dump(IMAGES, stream, protocol)
        with open(stem % "metadata", "wb") as stream:
            pickle.dump({"tree": ContainerFileTree(sorted(IMAGES)), "hit": HIT}, stream, protocol)
