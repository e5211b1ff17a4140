"""What is similar is found: files of one kind, records of one kind, and their places on a map."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_builders import stage_record

import zml_dask as zml
from zml_dask.derived import embedding, similar
from zml_dask.derived.compute import Recipe
from zml_dask.derived.embedding import (
    EMBEDDING,
    pack_vector,
    shipped_embedder,
    sign_tree,
    unpack_vectors,
)
from zml_dask.errors import UsageError
from zml_dask.learning.words import count_words
from zml_dask.query.dataset import Dataset
from zml_dask.raster.images import rasterize
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify
from zml_dask.store.withdrawal import withdraw

TOPICS = {
    "py": "def {a}({b}):\n    return np.mean({b}, axis={n})\n\n\nfor {b} in {a}({n}):\n    {a}()\n",
    "c": "static int {a}(struct {b} *p)\n{{\n    if (p->{b} > {n})\n        return {n};\n}}\n",
    "f90": "subroutine {a}({b})\n  integer, intent(in) :: {b}\n  call {a}({n})\nend subroutine\n",
    "java": "public class {a} {{\n    private int {b} = {n};\n    void {a}() {{ }}\n}}\n",
}
NAMES = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def source(kind: str, rng: random.Random) -> str:
    return "".join(
        TOPICS[kind].format(a=rng.choice(NAMES), b=rng.choice(NAMES), n=rng.randrange(9))
        for _ in range(rng.randrange(3, 30))
    )


def stage(storage: Storage, scratch: Path, record_id: int, kind: str, n: int = 5) -> None:
    rng = random.Random(record_id)
    files = [(f"top-{record_id}/src/{NAMES[k]}.{kind}", source(kind, rng)) for k in range(n)]
    files += [(f"top-{record_id}/README", "!?" * record_id)]
    stage_record(storage, scratch, record_id, files, {"title": f"{kind} {record_id}"})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("similar")
    storage = Storage.open(folder / "ds")
    for number in range(20):
        stage(storage, folder, 100 + number, list(TOPICS)[number % 4])
    stage_record(storage, folder, 130, [("data.bin", "\0\0\1")], {"title": "no text"})
    commit(storage)
    return zml.derive(zml.open_dataset(folder / "ds"), "record_embedding")


def kinds(frame: object, column: str) -> set[str]:
    return {text.rpartition(".")[2].split(" ")[0] for text in frame[column]}  # type: ignore[index]


def test_files_of_one_kind_are_nearest(built: Dataset) -> None:
    for kind in TOPICS:
        one = built.select(f"extension = '{kind}'").files.iloc[0]
        found = built.similar(file=int(one.file_id), k=8)
        assert kinds(found, "path") == {kind}
        assert (found.record_id != one.record_id).all()
        assert found.similarity.is_monotonic_decreasing
        assert found.similarity[0] > 0.8
        of_text = built.similar(text=source(kind, random.Random(7)), k=6)
        assert kinds(of_text, "path") == {kind}
    # The same text has the same vector as the file, so that it is the nearest of all.
    text = built.text(int(one.file_id))
    assert built.similar(text=text, k=1).similarity[0] == pytest.approx(1, abs=1e-5)
    of_view = built.select("extension = 'c'").similar(file=int(one.file_id), k=50)
    assert kinds(of_view, "path") == {"c"}
    assert len(of_view) == 25


def test_records_of_one_kind_are_nearest(built: Dataset) -> None:
    for record_id in (100, 105):
        found = built.similar(record_id, k=4)
        assert kinds(found, "title") == kinds(found[:1], "title")
        assert found.title[0].split(" ")[0] == list(TOPICS)[record_id % 4]
        assert record_id not in set(found.record_id)
    view = built.select("record_id in (101, 102)")
    assert set(view.similar(100).record_id) == {101, 102}
    # By the names in their trees: 'src' and the file names with their endings.
    by_tree = built.similar(100, k=4, by="tree")
    assert kinds(by_tree, "title") == {"py"}
    assert by_tree.similarity[0] == 1
    # A record is the mean of the directions of its files.
    rows = built.select("record_id = 100 and embedding.vector is not null").read(
        "embedding.vector", "record_embedding.vector", "n_images"
    )
    vectors = np.stack([np.frombuffer(v, np.int8) for v in rows["embedding.vector"]]).astype(float)
    weight = np.minimum(rows.n_images.to_numpy(), 8)[:, None]
    mean = (weight * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).sum(axis=0)
    stored = rows["record_embedding.vector"][0]
    one = np.frombuffer(stored, np.int8).astype(float)
    assert one @ mean / np.linalg.norm(one) / np.linalg.norm(mean) > 0.999


def test_what_cannot_be_compared_is_named(built: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no words"):
        built.similar(text=" \n ")
    with pytest.raises(UsageError, match="exactly one"):
        built.similar(100, text="x")
    with pytest.raises(UsageError, match="no words to compare"):
        built.similar(130)
    with pytest.raises(UsageError, match="holds no record 7"):
        built.similar(7)
    with pytest.raises(UsageError, match="by must be 'content'"):
        built.similar(text="x", by="tree")
    storage = Storage.open(tmp_path / "ds")
    stage(storage, tmp_path, 100, "c")
    commit(storage)
    plain = zml.open_dataset(storage.url)
    for ask, name in ((lambda: plain.similar(100), "record_embedding"),
                      (lambda: plain.similar(text="x"), "embedding")):  # fmt: skip
        with pytest.raises(UsageError, match=f"zml-dask derive DATASET {name}"):
            ask()


def test_an_update_computes_new_rows_only(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "ds")
    for number in range(8):
        stage(storage, tmp_path, 100 + number, list(TOPICS)[number % 4])
    commit(storage)
    first = zml.derive(storage.url, "record_embedding")
    assert first.info.derived["record_embedding"].of == "records"
    assert first.info.derived["embedding_weights"].of == "nothing"
    weights = first.snapshot.scan("derived/embedding_weights", ["weights"])["weights"].to_pylist()
    halves = [np.frombuffer(row or bytes(128), "<f2") for row in weights]
    assert np.array_equal(np.stack(halves), shipped_embedder().weights)
    stage(storage, tmp_path, 200, "py")
    commit(storage)
    behind = zml.open_dataset(storage.url)
    assert behind.read("record_embedding.vector").isna().sum().item() == 6
    assert behind.select("record_embedding.vector is null").counted["files"] == 6
    generation = behind.info.generation
    second = zml.derive(behind, "record_embedding")
    assert second.info.generation > generation
    old, new = (
        ds.sql("SELECT file_id, vector FROM embedding ORDER BY file_id").fetchall()
        for ds in (first, second)
    )
    assert new[: len(old)] == old
    assert {row[0] for row in second.similar(200, k=2)[["record_id"]].to_numpy()} <= {100, 104}
    assert zml.derive(second, "record_embedding").info.generation == second.info.generation
    assert verify(storage.url).ok
    withdraw(storage, [100], "asked")
    assert 100 not in set(zml.open_dataset(storage.url).similar(200, k=9).record_id)


def test_the_map(built: Dataset, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, said, _ = run("derive", built.url, "record_map")
    assert status == 0
    assert "record_map: 21 records, columns x, y, language, neighbours, similarity" in said
    ds = zml.open_dataset(built.url)
    frame = ds.sql("SELECT * FROM record_map").df().set_index("record_id")
    placed = frame[frame.x.notna()]
    assert frame.index[frame.x.isna()].tolist() == [130]
    assert placed[["x", "y"]].abs().max().max() == pytest.approx(1)
    assert frame.language[100] == "Python"
    for record_id, row in placed.iterrows():
        assert record_id not in row.neighbours
        assert all((other - record_id) % 4 == 0 for other in row.neighbours[:4])
        nearest = ds.similar(int(record_id), k=10)
        assert nearest.similarity.tolist() == pytest.approx(row.similarity.tolist(), abs=1e-5)
    assert ds.select("record_map.language = 'C'").counted["records"] == 5
    # For embedding-atlas: places of rows instead of numbers of records.
    status, _, said = run("export", ds.url, str(tmp_path), "--format", "atlas")
    assert status == 0, said
    table = pq.read_table(tmp_path / "atlas.parquet").to_pylist()
    assert len(table) == 20
    for row in table:
        others = [table[place]["record_id"] for place in row["neighbors"]["ids"]]
        assert others == list(frame.neighbours[row["record_id"]])


def test_the_map_of_files(built: Dataset) -> None:
    ds = zml.derive(built.url, "file_map")
    frame = ds.sql(
        "SELECT file_map.*, extension, vector IS NOT NULL AS has_words FROM file_map "
        "JOIN files USING (file_id) JOIN embedding USING (file_id) ORDER BY file_id"
    ).df()
    assert frame.file_id.tolist() == list(range(ds.info.counts.files))
    assert (frame.x.notna() == frame.has_words).all()
    assert (frame.y.notna() == frame.has_words).all()
    assert not frame.has_words[frame.extension == "bin"].any()
    placed = frame[frame.has_words]
    assert placed[["x", "y"]].abs().max().max() == pytest.approx(1)
    # Next to a file lies one of its own kind.
    places = placed[["x", "y"]].to_numpy()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    kind = placed.extension.fillna("").to_numpy()
    assert (kind[apart.argmin(axis=1)] == kind).mean() > 0.95
    # It is drawn anew where the vectors have changed, and only then.
    assert zml.derive(ds, "file_map").info.generation == ds.info.generation
    assert ds.select("file_map.x > 0 or file_map.x <= 0").counted["files"] == len(placed)


def test_points_that_are_too_many_are_placed_among_their_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(64, dtype=np.float32)[:5]
    points = np.repeat(centres, 60, axis=0) + rng.normal(0, 0.05, (300, 64)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    monkeypatch.setattr(similar, "LANDMARKS", 100)
    monkeypatch.setattr(similar, "_COSINES_AT_ONCE", 700)  # seven at a time
    placed = similar.draw(300, lambda: np.split(points, [1, 90, 200]))
    assert placed.shape == (300, 2)
    assert np.array_equal(placed, similar.draw(300, lambda: [points]))
    assert np.abs(placed).max() == pytest.approx(1)
    group = np.repeat(np.arange(5), 60)
    apart = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(axis=1)] == group).mean() > 0.98
    for few in range(4):
        assert similar.draw(few or 1, lambda: [points[: few or 1]]).shape == (few or 1, 2)  # noqa: B023


def test_a_vector_is_the_weighted_sum_of_words_pairs_and_patterns() -> None:
    text = source("c", random.Random(1)) * 400
    pages = rasterize(text)[0]
    assert len(pages) > 8
    counts = count_words(pages, [0, len(pages)], patterns=True)
    assert counts.counts.max() > 1_000
    embed = shipped_embedder()
    assert embed.weights.shape == (262_144, 64)
    # Numbers of 16 bits hold the weights, so that whoever reads them from a dataset has the same.
    assert np.array_equal(embed.weights, embed.weights.astype(np.float16))
    plain = ((1 + np.log(counts.counts))[:, None] * embed.weights[counts.buckets]).sum(axis=0)
    vector = np.frombuffer(embed(pages) or b"", np.int8)
    assert np.abs(vector - plain * (127 / np.abs(plain).max())).max() < 0.51
    assert embed(text) == embed(pages)
    assert embed(" ") is None


def test_vectors_by_other_weights_are_not_compared(
    built: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Recipe.of("embedding", partial(embedding._vector, "other"), {"vector": "binary"})
    assert other.fingerprint != EMBEDDING.fingerprint
    assert (other.columns, other.inputs) == (EMBEDDING.columns, EMBEDDING.inputs)
    monkeypatch.setattr(similar, "EMBEDDING", other)
    with pytest.raises(UsageError, match="by another version"):
        built.similar(text="x y z")


def test_vectors_and_trees_as_bytes() -> None:
    assert pack_vector(np.zeros(64, np.float32)) is None
    vectors = [pack_vector(np.roll(np.arange(64, dtype=np.float32), n)) for n in range(3)]
    column = pa.chunked_array(
        [pa.array([vectors[0], None]), pa.array([vectors[1], vectors[2]]).slice(1)]
    )
    found, there = unpack_vectors(column)
    assert there.tolist() == [True, False, True]
    assert [bytes(row) for row in found] == [vectors[0], vectors[2]]
    assert embedding.unpack_vectors(pa.array([], pa.binary()))[0].shape == (0, 64)
    same = np.frombuffer(sign_tree(pa.array(["a/x/y", "a/z"])), "<u2")
    other = np.frombuffer(sign_tree(pa.array(["b/x/y", "b/z"])), "<u2")
    assert (same == other).all()
    apart = np.frombuffer(sign_tree(pa.array(["b/k/l", "b/m"])), "<u2")
    assert (same == apart).mean() < 0.2
    many = [f"r/{n}.c" for n in range(200)]
    half = [f"r/{n}.c" for n in range(100, 300)]
    signed = [np.frombuffer(sign_tree(pa.array(paths)), "<u2") for paths in (many, half)]
    assert (signed[0] == signed[1]).mean() == pytest.approx(1 / 3, abs=0.12)


def test_the_command(
    built: Dataset,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, said, _ = run("similar", built.url, "100", "--format", "json", "--limit", "3")
    assert status == 0
    rows = json.loads(said)["rows"]
    assert [row["title"].split(" ")[0] for row in rows] == ["py"] * 3
    query = tmp_path / "mine.c"
    query.write_text(source("c", random.Random(9)))
    status, said, _ = run("similar", built.url, str(query), "--where", "record_id <> 101")
    assert status == 0
    assert ".c" in said
    query.rename(tmp_path / "10.1-mine.c")
    monkeypatch.chdir(tmp_path)
    assert run("similar", built.url, "10.1-mine.c", "--where", "record_id <> 101")[:2] == (0, said)
    by_doi = run("similar", built.url, built.record(100).row["doi"], "--format", "json")
    assert by_doi == run("similar", built.url, "100", "--format", "json")
    status, said, _ = run("similar", built.url, "top-100/src/alpha.py", "--format", "csv")
    assert status == 0
    assert len(said.splitlines()) == 11
    status, _, said = run("similar", built.url, "nowhere.py")
    assert status == 2
