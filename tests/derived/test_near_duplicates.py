"""Near-duplicates: signatures estimate exact overlaps, and clusters hold the pairs that overlap."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import stage_record, write_dataset

import zml_dask as zml
from zml_dask.derived.near_duplicates import SHINGLE, cluster, signature_of
from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import rasterize, to_text
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify

THRESHOLD = 0.7
"""The overlap from which files count as near-duplicates."""


def elements(text: str) -> set[tuple[str, ...]]:
    """Return the runs of five words of what images hold of a text, plainly."""
    words = re.findall(r"[A-Za-z0-9_\u0080-\U0010ffff]+", to_text(rasterize(text)[0]))
    return {tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)}


def overlap(one: str, other: str) -> float:
    a, b = elements(one), elements(other)
    return len(a & b) / len(a | b)


def edited(text: str, rate: float, rng: random.Random) -> str:
    """Change some words, as who copies a file does."""
    return "\n".join(
        line + f" edit{rng.randrange(10**6)}" if rng.random() < rate else line
        for line in text.split("\n")
    )


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Source files, each with some edited copies, and files that have nothing in common."""
    rng = random.Random(0)
    found: list[str] = []
    for path in sorted(Path(random.__file__).parent.glob("[a-h]*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(elements(text)) < 20 or len(text) > 60_000:
            continue
        found.append(text)
        found += [edited(text, rate, rng) for rate in (0.01, 0.03, 0.06, 0.1, 0.3)]
    return found


def signatures(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    data = b"".join(signature_of(text) or b"" for text in texts)
    return np.frombuffer(data, "<u2").reshape(-1, 128)


def test_signatures_estimate_the_exact_overlap(texts: list[str]) -> None:
    signed = signatures(texts)
    wrong = [
        float((signed[a] == signed[b]).mean()) - overlap(texts[a], texts[b])
        for a, b in combinations(range(len(signed)), 2)
        if a // 6 == b // 6
    ]
    assert abs(np.mean(wrong)) < 0.01
    assert np.sqrt(np.mean(np.square(wrong))) < 0.05
    # What shares nothing agrees in next to nothing.
    assert (signed[0] == signed[6]).mean() < 0.1


def test_clusters_hold_95_percent_of_the_pairs_that_overlap_by_70(texts: list[str]) -> None:
    found = cluster(signatures(texts))
    sets = [elements(text) for text in texts]
    near = far = together = wrongly = 0
    for a, b in combinations(range(len(texts)), 2):
        joined = found[a] == found[b]
        small, large = sorted((len(sets[a]), len(sets[b])))
        if small < THRESHOLD * large and not joined:
            continue  # too different in size to overlap by so much
        exact = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        near += exact >= THRESHOLD
        together += exact >= THRESHOLD and bool(joined)
        far += exact < 0.3
        wrongly += exact < 0.3 and bool(joined)
    assert near > 400
    assert together / near >= 0.95
    assert far > 0
    assert wrongly == 0
    assert (found <= np.arange(found.size)).all()
    assert (found[found] == found).all()


def test_no_pair_of_files_that_overlap_hides_among_others(texts: list[str]) -> None:
    """Exact copies are one cluster, however many files lie between them."""
    many = texts + texts[::-1]
    found = cluster(signatures(many))
    assert (found == found[::-1]).all()


def test_short_texts_have_no_signature() -> None:
    assert signature_of("") is None
    assert signature_of("one, two; three four") is None
    assert signature_of("a b c d e") == signature_of("a-b\nc\td (e)")
    assert signature_of("a b c d e") != signature_of("a b c d f")
    assert signature_of("naïve \N{SNOWMAN} \ud800 x y z") is not None


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    body = "".join(f"value_{n} = compute(first_{n}, second_{n})\n" for n in range(300))
    changed = body.replace("value_7 ", "other ").replace("second_250", "third")
    alone = "".join(f"call something_{n} with\n" for n in range(300))
    for record_id, text in ((51, body), (52, changed)):
        files = [("src/a.py", text), (f"b{record_id}.py", alone * (record_id == 51)), ("x", "y")]
        stage_record(storage, tmp_path, record_id, files, {"concept_id": record_id})
    commit(storage)
    return zml.open_dataset(tmp_path / "ds")


def test_a_dataset_s_clusters(ds: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zml-dask derive DATASET near_duplicates"):
        ds.duplicates(near=True)
    with pytest.raises(UsageError, match="zml-dask derive DATASET near_duplicates"):
        ds.split({"train": 0.5, "test": 0.5}, by="cluster")
    found = zml.derive(ds, "near_duplicates")
    pair = found.select("path = 'src/a.py' and record_id in (51, 52)")
    both = pair.read("file_id", "near_duplicates.cluster", "near_duplicates.size")
    assert set(both["near_duplicates.cluster"]) == {both.file_id[0]}
    assert set(both["near_duplicates.size"]) == {2}
    alone = found.select("path = 'b51.py'").read("file_id", "near_duplicates.cluster")
    assert alone["near_duplicates.cluster"][0] == alone.file_id[0]
    assert found.select("path = 'x'").read("near_duplicates.cluster").isna().all(axis=None)
    listed = found.duplicates(near=True)
    row = listed[listed.cluster == both.file_id[0]].iloc[0]
    assert (row.files, row.records, row.file_id) == (2, 2, both.file_id[0])
    assert pair.duplicates(near=True).cluster.tolist() == [both.file_id[0]]
    assert verify(ds.url).ok
    for seed in range(5):
        split = found.split({"train": 0.5, "test": 0.5}, by="cluster", seed=seed)
        column = "near_duplicates.cluster"
        parts = [set(part.read(column)[column].dropna()) for part in split.values()]
        assert not parts[0] & parts[1]


def test_a_split_says_what_leaks(ds: Dataset) -> None:
    shares = {"train": 0.5, "test": 0.5}
    assert ds.split(shares).leakage().near.isna().all()
    found = zml.derive(ds, "near_duplicates")
    columns = ("file_id", "text_sha256", "near_duplicates.cluster")
    for by in ("file", "concept", "cluster"):
        split = found.split(shares, by=by, seed=3)
        frames = {name: view.read(*columns) for name, view in split.items()}
        leaks = split.leakage()
        for name, other in (("train", "test"), ("test", "train")):
            mine, theirs = (frames[n][frames[n].text_sha256.notna()] for n in (name, other))
            exact = mine.text_sha256.isin(theirs.text_sha256)
            clusters = theirs["near_duplicates.cluster"].dropna()
            near = exact | mine["near_duplicates.cluster"].isin(clusters)
            assert leaks.loc[name].tolist() == [len(mine), exact.sum(), near.sum()]
        assert leaks.exact.sum() == 0  # the split sees to that
        if by != "concept":
            assert (leaks.near.sum() > 0) == (by == "file")


def test_an_update_finds_the_clusters_anew(
    ds: Dataset, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    found = zml.derive(ds, "near_duplicates")
    before = found.info.generation
    assert zml.derive(found, "near_duplicates").info.generation == before  # nothing to do
    text = found.text(int(found.select("path = 'b51.py'").selection.file_id[0]))
    stage_record(found.snapshot.storage, tmp_path, 60, [("c.py", text + "one more line\n")], {})
    commit(found.snapshot.storage)
    with pytest.raises(UsageError, match="its latest files"):
        zml.open_dataset(ds.url).duplicates(near=True)
    status, said, _ = run("derive", ds.url, "near_duplicates")
    assert status == 0
    assert "columns cluster, size" in said
    now = zml.open_dataset(ds.url)
    new = now.select("path in ('c.py', 'b51.py')").read("near_duplicates.cluster")
    assert new["near_duplicates.cluster"].nunique() == 1
