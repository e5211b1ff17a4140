"""Weigh four ways to name a file's language, on the packages of ``real_packages.py``.

    python benchmarks/languages.py DATASET

*Clear* files have an extension of one language, so names tell the truth and
content-based ways are measured by it; *ambiguous* ones (.h, .m, .pl, .t, .r)
have the language of the package they are from. All ways see the first 80 lines.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import real_packages
from identify import identify as pre_commit_identify
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

import zml_dask as zml
from zml_dask.raster import language

CLEAR = {
    "py": "Python",
    "js": "JavaScript",
    "java": "Java",
    "f90": "Fortran",
    "go": "Go",
    "hs": "Haskell",
    "rb": "Ruby",
    "c": "C",
    "cpp": "C++",
    "cc": "C++",
}
AMBIGUOUS = {"h", "m", "pl", "pm", "t", "r", "R", "rs", "ml", "ts"}
AT_MOST = 40
"""Files of an extension."""


def main(path: str) -> None:
    """Print the table."""
    dataset = zml.open_dataset(path)
    packages = {p.name: p.kind for p in real_packages.packages() if p.kind}
    of_record = {
        row.record_id: packages.get(str(row.title).partition(":")[0])
        for row in dataset.records.itertuples()
    }
    for row in dataset.records.itertuples():
        if "npm" in list(row.keywords):
            of_record[row.record_id] = "TypeScript"
    samples: defaultdict[str, list[tuple[str, bytes, str]]] = defaultdict(list)
    taken: Counter[str] = Counter()
    files = dataset.files[dataset.files["status"] == "ok"].sample(frac=1, random_state=0)
    for row in files.itertuples():
        group = "clear" if row.extension in CLEAR else "ambiguous"
        truth = CLEAR.get(row.extension) or of_record.get(row.record_id)
        wanted = row.extension in CLEAR or row.extension in AMBIGUOUS
        if wanted and truth and taken[row.extension] < AT_MOST:
            taken[row.extension] += 1
            text = dataset.text(row.file_id).encode()
            samples[group].append((row.path, text[:4096], truth))
    print("files:", {name: len(group) for name, group in samples.items()}, dict(taken))
    ways: dict[str, Callable[[str, bytes], str | None]] = {
        "linguist's tables (ours)": lambda path, head: language.identify(path, head).language,
        "pygments": by_pygments,
        "identify": by_identify,
        "magika": by_magika,
        "magika, else the name": lambda path, head: (
            language.identify_with_magika(path, head).language
        ),
    }
    print(f"{'way':26} {'clear: right':>12} {'us':>8} {'ambiguous: right':>17} {'us':>8}")
    wrong: Counter[str] = Counter()
    for way, name in ways.items():
        columns = []
        for group in ("clear", "ambiguous"):
            some = samples[group]
            for path, head, _ in some[:: 1 if way.startswith("linguist") else 20]:
                name(path, head)  # tables are read and rules compiled once
            start = time.perf_counter()
            answers = [(path, name(path, head), truth) for path, head, truth in some]
            each = (time.perf_counter() - start) / len(some)
            right = sum(same(found, truth) for _, found, truth in answers) / len(some)
            columns.append(f"{right:{12 if group == 'clear' else 17}.1%} {1e6 * each:8.1f}")
            if way.startswith("linguist"):
                wrong.update(
                    f".{path.rpartition('.')[2]}: {truth} named {found}"
                    for path, found, truth in answers
                    if not same(found, truth)
                )
        print(f"{way:26} {' '.join(columns)}", flush=True)
    print("linguist's tables wrong:", wrong.most_common(12))


def same(found: str | None, truth: str) -> bool:
    """Compare, with dialects taken for the same."""
    named = (found or "").lower().replace("fixed", "").strip()
    family = {"fortran free form": "fortran", "fortranfixed": "fortran", "octave": "matlab"}
    return family.get(named, named) == truth.lower()


def by_pygments(path: str, head: bytes) -> str | None:
    """Name by pygments, which also looks at the text."""
    try:
        return get_lexer_for_filename(path, head.decode(errors="replace")).name
    except ClassNotFound:
        return None


def by_identify(path: str, _head: bytes) -> str | None:
    """Name by pre-commit's identify: the first tag that is a language."""
    tags = pre_commit_identify.tags_from_filename(path) - {"text", "binary", "header"}
    return next(iter(sorted(tags)), None)


def by_magika(_path: str, head: bytes) -> str | None:
    """Name by Magika alone."""
    label = str(language.magika().identify_bytes(head).prediction.output.label)
    return language.identity_of(language.MAGIKA_NAMES.get(label, label.capitalize())).language


if __name__ == "__main__":
    main(sys.argv[1])
