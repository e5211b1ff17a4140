"""Learning on a small dataset: no family on both sides, the seed decides, and scores add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import zml_dask as zml
from tests.learning.conftest import LINES, text_of
from zml_dask.cli.main import cli
from zml_dask.derived.licenses import LICENSE
from zml_dask.errors import UsageError
from zml_dask.learning import evaluation
from zml_dask.learning.association import associate, contained_licenses, family_of_license
from zml_dask.learning.evaluation import (
    LearnOptions,
    cross_validate,
    learn,
    splits,
    summary,
    unknown,
)
from zml_dask.learning.model import (
    Calibration,
    LanguageModel,
    calibration_of,
    fit,
    probabilities,
    score,
    temperature_of,
)
from zml_dask.learning.network import NetworkOptions, lines_of, train_and_score
from zml_dask.learning.samples import (
    SampleOptions,
    concatenated,
    draw,
    folds_of,
    read_pages,
    take,
)
from zml_dask.learning.words import N_BUCKETS, count_words, find_words
from zml_dask.query.dataset import Dataset
from zml_dask.query.file_images import FileRow
from zml_dask.raster.images import to_text

OPTIONS = LearnOptions(SampleOptions(pages_a_label=60), train_pages=40, draws=50, programming=3)


def test_pages_are_the_files_own_and_no_text_comes_twice(taught: Dataset) -> None:
    sample = draw(taught, OPTIONS.sample)
    assert sample.labels == ["C", "JavaScript", "Markdown", "Python"]
    for row in sample.rows.iloc[::9].itertuples():
        text = taught.text(row.file_id)
        page = "\n".join(text.split("\n")[80 * row.page : 80 * row.page + 80])
        image = taught.image(row.file_id, row.page)
        assert to_text(image).rstrip() == page.rstrip()
        counts = take(sample.counts, np.array([row.Index]))
        for one, other in zip(counts, count_words(image, patterns=True), strict=True):
            assert np.array_equal(one, other)
    licences = sample.rows["path"].str.endswith("LICENSE.md")
    assert licences.sum() == 1
    assert sample.rows.groupby("label").size().max() <= 60


def test_no_family_is_in_two_folds_and_labels_are_even(taught: Dataset) -> None:
    sample = draw(taught, OPTIONS.sample)
    fold = folds_of(sample, 3, seed=0)
    assert (sample.rows.assign(fold=fold).groupby("family")["fold"].nunique() == 1).all()
    families = sample.rows.assign(fold=fold).groupby("fold")["family"].nunique()
    assert families.tolist() == [4, 4, 4]
    assert np.array_equal(fold, folds_of(sample, 3, seed=0))


def test_each_page_is_named_once_by_others(taught: Dataset) -> None:
    sample = draw(taught, OPTIONS.sample)
    fold = folds_of(sample, 3, seed=0)
    tested, rates = cross_validate(sample, sample.counts, fold, OPTIONS)
    assert np.array_equal(np.sort(tested.pages), np.arange(len(sample.rows)))
    assert np.array_equal(tested.fold, fold[tested.pages])
    assert len(rates) == 3
    assert set(rates) <= set(evaluation.RATES)
    found = summary(sample, tested, OPTIONS)
    named = tested.scores.argmax(axis=1)
    assert found["accuracy"] == (named == sample.label[tested.pages]).mean()
    assert found["accuracy"] > 0.95
    low, high = found["accuracy_interval"]
    assert 0.9 < low <= found["accuracy"] <= high <= 1
    assert sum(each["pages"] for each in found["by_label"].values()) == found["pages"]


def test_names_that_say_nothing_are_learnt_from_nothing(taught: Dataset) -> None:
    sample = draw(taught, OPTIONS.sample)
    shuffled = np.random.default_rng(0).permutation(sample.label)
    wrong = type(sample)(sample.labels, sample.rows.assign(label=shuffled), sample.counts)
    fold = folds_of(sample, 3, seed=0)
    tested, _ = cross_validate(wrong, wrong.counts, fold, OPTIONS, rates=(1.0,))
    found = summary(wrong, tested, OPTIONS)
    assert found["accuracy"] < 0.5
    assert found["calibration_error"] < 0.15


def test_fitting_keeps_the_largest_rows_in_steps() -> None:
    texts = [text_of(kind, seed) for seed in range(6) for kind in LINES]
    counts = concatenated([count_words(text, patterns=True) for text in texts])
    labels = np.tile(np.arange(4), 6)
    model = fit(counts, labels, 4, N_BUCKETS, kept_rows=300)
    assert np.count_nonzero(model.weights.any(axis=1)) == 300
    scores = score(model, counts)
    assert (scores.argmax(axis=1) == labels).mean() > 0.9
    again = fit(counts, labels, 4, N_BUCKETS, kept_rows=300)
    assert np.array_equal(model.weights, again.weights)
    whole = LanguageModel.of(model, tuple("abcd"), Calibration())
    assert np.allclose(whole.scores(texts[0]), score(model, count_words(texts[0], patterns=True)))


def test_the_temperature_makes_confidence_true() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4_000, 3)).astype(np.float32)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(3, p=p / p.sum()) for p in chances.astype(float)])
    assert temperature_of(5 * logits, labels) == pytest.approx(5, rel=0.1)
    found = calibration_of(5 * logits, labels)
    assert found == pytest.approx((5, 1, 0), rel=0.1, abs=0.1)
    assert np.allclose(probabilities(5 * logits, Calibration(5)), chances, atol=1e-5)


def test_labels_that_are_wrong_make_no_page_certain() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(scale=8, size=(6_000, 5)).astype(np.float32)
    labels = logits.argmax(axis=1)
    wrong = generator.random(labels.size) < 0.1
    labels[wrong] = generator.integers(0, 5, wrong.sum())
    found = calibration_of(logits[:3_000], labels[:3_000])
    rest = probabilities(logits[3_000:], found)
    assert np.allclose(rest.sum(axis=1), 1)
    assert np.array_equal(rest.argmax(axis=1), logits[3_000:].argmax(axis=1))
    right = rest.argmax(axis=1) == labels[3_000:]
    assert rest.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.02)
    assert rest.max() < 0.97


def test_a_network_learns_the_same_each_time(taught: Dataset) -> None:
    pytest.importorskip("torch")
    sample = draw(taught, replace(OPTIONS.sample, pages_a_label=20))
    lines = lines_of(read_pages(taught, sample.rows))
    assert lines.pages.size == len(sample.rows) + 1
    assert lines.pages[-1] == len(lines.rows) == len(lines.buckets)
    first = find_words(taught.image(*sample.rows.loc[0, ["file_id", "page"]]))
    assert np.array_equal(lines.buckets[: lines.pages[1]], first.buckets)
    assert np.array_equal(lines.rows[: lines.pages[1]], first.places[:, 1])
    train, test = next(splits(sample, folds_of(sample, 3, seed=0), OPTIONS))
    options = NetworkOptions(size=8, epochs=8, batch=8, rate=1e-2)
    scores = train_and_score(lines, train, sample.label[train], test, 4, options, 0)
    assert (scores.argmax(axis=1) == sample.label[test]).mean() > 0.9
    again = train_and_score(lines, train, sample.label[train], test, 4, options, 0)
    assert np.array_equal(scores, again)


def test_what_the_model_does_not_know_is_told_apart(taught: Dataset) -> None:
    code = taught.select("language in ('C', 'Python')")
    model = learn(code, replace(OPTIONS, draws=2), say=lambda _: None)[1]
    assert model.labels == ("C", "Python")
    found = unknown(taught, model, OPTIONS)
    assert set(found) == {"JavaScript", "Markdown"}
    assert found["JavaScript"]["families"] == 12
    assert sum(found["JavaScript"]["named"].values()) == pytest.approx(1)


def test_too_few_languages_are_refused(taught: Dataset) -> None:
    with pytest.raises(UsageError, match="0 languages in at least 99 concepts"):
        draw(taught, SampleOptions(min_families=99))


def test_licences_have_families() -> None:
    assert family_of_license("AGPL-3.0-only") == "copyleft"
    assert family_of_license("BSD-3-Clause") == "permissive"
    assert family_of_license(None) is None


def test_what_code_does_not_tell_is_not_found(taught: Dataset) -> None:
    sample = draw(taught, OPTIONS.sample)
    found = {one.target: one for one in associate(taught, sample, folds_of(sample, 3, 0))}
    # Names were drawn per record, licences and keywords dealt in turn: nothing is to be known.
    assert set(found) == {"license", "keyword", "year"}
    assert found["license"].classes == {"copyleft": 12, "permissive": 12}
    for one in found.values():
        for name, value in one.scores.items():
            low, high = one.intervals[name]
            assert low <= value <= high
        assert one.scores["language"] <= one.chance + 0.15


def test_the_licence_that_a_record_contains_stands_in_for_a_statement(taught: Dataset) -> None:
    def found(row: FileRow) -> dict[str, str] | None:
        if row.extension == "c":  # three files against two: but tags do not count
            return {"license": "MIT", "how": "tag"}
        is_text = row.name.endswith(("0.js", "1.js"))
        return {"license": "GPL-3.0-only", "how": "text"} if is_text else None

    ds = zml.derive(taught, LICENSE, found, {"license": "string", "how": "string"})
    assert contained_licenses(ds).to_dict() == dict.fromkeys(
        ds.records["record_id"].tolist(), "GPL-3.0-only"
    )


def test_command(taught: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "learnt"
    words = ["learn", taught.url, str(folder), "--pages", "20", "--held-out", taught.url]
    ran = CliRunner().invoke(cli, words)
    assert ran.exit_code == 0, ran.output
    assert "only 12 families" in ran.stderr
    results = json.loads((folder / "results.json").read_text())
    assert set(results["tasks"]) == {"all", "programming"}
    assert results["tasks"]["programming"]["labels"] == ["C", "JavaScript", "Python"]
    models = results["tasks"]["all"]["models"]
    assert models["majority"]["accuracy"] < models[evaluation.PATTERNS]["accuracy"]
    assert results["held_out"]["accuracy"] > 0.95
    model = LanguageModel.from_bytes((folder / "languages.npz").read_bytes())
    assert zml.predict(text_of("js", 12345), model=model).language == "JavaScript"
    again, same = learn(taught, LearnOptions(SampleOptions(pages_a_label=60), train_pages=20))
    assert same.to_bytes() == (folder / "languages.npz").read_bytes()
    assert again["tasks"] == results["tasks"]
