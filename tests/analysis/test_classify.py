"""Learning on the small dataset: nothing leaks, the seed decides, and mistakes are counted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from zml_dask.analysis import classify
from zml_dask.analysis.samples import SampleOptions, draw, to_tokens
from zml_dask.errors import UsageError
from zml_dask.query.dataset import open_dataset

from .conftest import Known, build_known

pytest.importorskip("torch")
pytest.importorskip("sklearn")

OPTIONS = SampleOptions(images_a_language=20, min_lines=2)


@pytest.fixture(scope="module")
def results(known: Known, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("learnt")
    return classify.run(str(known.path), folder, classify.ClassifyOptions(OPTIONS, 2)), folder


def test_no_record_and_no_content_is_on_both_sides(known: Known) -> None:
    languages, train, test = draw(open_dataset(str(known.path)), OPTIONS)
    assert len(languages) >= 2
    assert not set(train.rows["record_id"]) & set(test.rows["record_id"])
    assert not set(train.rows["record_id"]) & known.withdrawn

    def contents(rows: pd.DataFrame) -> set[bytes]:
        return {known.files[r.record_id][r.path] for r in rows.itertuples()}

    assert not contents(train.rows) & contents(test.rows)


def test_samples_are_the_files_own_pixels(known: Known) -> None:
    languages, train, _ = draw(open_dataset(str(known.path)), OPTIONS)
    for row, tokens in zip(train.rows.itertuples(), train.tokens, strict=True):
        lines = known.files[row.record_id][row.path].decode().split("\n")[:-1]
        page = lines[80 * row.segment : 80 * row.segment + 80]
        expected = np.full((80, 80), 32, np.uint32)
        for i, line in enumerate(page):
            expected[i, : len(line[:80])] = [ord(c) for c in line[:80]]
        assert np.array_equal(tokens, to_tokens(expected))
        assert languages[row.label] == row.language


def test_results_add_up(results: tuple[dict, Path]) -> None:
    found, folder = results
    confusion = np.array(found["confusion"])
    assert confusion.sum() == found["images"]["test"]
    assert found["models"]["network"]["accuracy"] == confusion.trace() / confusion.sum()
    assert json.loads((folder / "results.json").read_text())["models"] == found["models"]
    assert {"confusion.png", "models.png"} <= {path.name for path in folder.iterdir()}
    embeddings = pd.read_parquet(folder / "embeddings.parquet")
    assert len(embeddings) == found["neighbours"]["files"]
    # Every file of this dataset is one of eight texts repeated: trivial for counts of characters.
    assert found["models"]["bag of pairs"]["accuracy"] > 0.9


def test_the_same_seed_gives_the_same_results(
    known: Known, results: tuple[dict, Path], tmp_path: Path
) -> None:
    again = classify.run(str(known.path), tmp_path, classify.ClassifyOptions(OPTIONS, 2))
    assert again == results[0]


def test_neighbours_are_of_other_records() -> None:
    from zml_dask.analysis.baselines import neighbours

    points = np.array([[1, 0], [1, 0.01], [0, 1], [0.1, 1]], np.float32)
    near = neighbours(points, np.array([1, 1, 2, 3]), n=2)
    assert near[2].tolist() == [3, 1]
    assert near[0].tolist() == [3, 2]


def test_an_association_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    from zml_dask.analysis.association import associate

    generator = np.random.default_rng(0)
    records = np.repeat(np.arange(60), 4)
    copyleft = np.repeat(generator.integers(0, 2, 60), 4)
    rows = pd.DataFrame(
        {
            "record_id": records,
            "license": np.where(copyleft, "gpl-3", "mit"),
            "language": "C",
            "segment": np.tile([0, 1, 2, 3], 60),
        }
    )
    noise = generator.normal(size=(240, 5)).astype(np.float32)
    nothing = associate(rows, noise, shuffles=6)
    assert nothing is not None
    assert nothing.from_first <= nothing.shuffled + 0.1
    signal = noise + 3 * copyleft[:, None].astype(np.float32)
    something = associate(rows, signal, shuffles=6)
    assert something is not None
    assert something.from_first > 0.9 > something.shuffled
    assert something.records == 60
    assert something.copyleft == copyleft[::4].sum()


@pytest.mark.parametrize("with_later", [[], [0, 1, 2], [0, 2, 4, 6, 8, 10], [0, 1, 2, 4, 6, 8]])
def test_an_association_needs_records_of_both_families_in_each_fold(with_later: list[int]) -> None:
    from zml_dask.analysis.association import associate

    first = pd.DataFrame(
        {
            "record_id": np.arange(12),
            "license": ["mit", "gpl-3.0"] * 6,
            "language": "Python",
            "segment": 0,
        }
    )
    later = first.iloc[with_later].assign(segment=1)
    rows = pd.concat([first, later], ignore_index=True)
    embedded = np.random.default_rng(0).normal(size=(len(rows), 5)).astype(np.float32)
    found = associate(rows, embedded, shuffles=2)
    assert found is not None
    assert found.from_later is None
    assert isinstance(found.from_first, float)
    assert isinstance(found.shuffled, float)
    whole = associate(rows.assign(segment=1), embedded, shuffles=2)
    assert whole is not None
    assert (whole.from_first, whole.shuffled) == (None, None)
    assert json.loads(json.dumps(asdict(whole)))["from_first"] is None


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    known = build_known(tmp_path)
    with pytest.raises(UsageError, match="give more records"):
        draw(open_dataset(str(known.path)), SampleOptions(min_records=50))


def test_command(known: Known, tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        classify.main, [str(known.path), str(tmp_path), "--images", "3", "--epochs", "1"]
    )
    assert ran.exit_code == 0 or "give more records" in ran.output, ran.output
    missing = CliRunner().invoke(classify.main, [str(tmp_path), str(tmp_path / "o")])
    assert missing.exit_code == 2
