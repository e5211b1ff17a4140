"""The model that ships: it names what it should, says why, and is sure when it is right."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import zml_dask as zml
from zml_dask.cli.main import cli
from zml_dask.derived import builtin, derive
from zml_dask.derived.builtin import by_model, predicted_language
from zml_dask.errors import UsageError
from zml_dask.learning.model import LanguageModel, shipped_model
from zml_dask.query.dataset import Dataset

TEXTS = {
    "Python": "import os\n\ndef f(x):\n    for y in x:\n        print(y)\n    return None\n",
    "C": '#include <stdio.h>\n\nint main(void)\n{\n    printf("%d\\n", 1);\n    return 0;\n}\n',
    "Fortran": "program p\n  implicit none\n  integer :: i\n  do i = 1, 3\n  end do\nend program\n",
    "Haskell": "module A where\n\nimport Data.List\n\nf :: Int -> Int\nf x = x + 1\n",
    "R": "f <- function(x) {\n  y <- c(1, 2)\n  library(stats)\n  mean(x, na.rm = TRUE)\n}\n",
    "Shell": '#!/bin/sh\nset -e\nif [ -z "$1" ]; then\n  echo "usage" >&2\n  exit 1\nfi\n',
    "JSON": '{\n  "a": [1, 2],\n  "b": {"c": null, "d": true}\n}\n',
}


@pytest.mark.parametrize("language", TEXTS)
def test_small_texts_are_named(language: str) -> None:
    found = zml.predict(TEXTS[language])
    assert found.language == language
    assert found.confidence == max(found.probabilities.values())
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert zml.predict(zml.rasterize(TEXTS[language])[0]) == found


def test_it_fits_in_the_wheel() -> None:
    data = (files("zml_dask.learning") / "languages.npz").read_bytes()
    assert len(data) <= 3_000_000
    model = shipped_model()
    assert len(model.labels) >= 40
    assert LanguageModel.from_bytes(data).to_bytes() == data
    assert model.rows[-1].tolist() == [0] * len(model.labels)


def test_words_add_up_to_the_score() -> None:
    model = shipped_model()
    text = TEXTS["Python"] * 20
    words = zml.explain(text, "C")
    scores = (model.scores(text) - model.bias) / np.float32(model.calibration.temperature)
    k = model.labels.index("C")
    expected = (scores[:, k] - scores.mean(axis=1)).mean()
    assert words["contribution"].sum() == pytest.approx(expected, rel=1e-3)
    lines = text.split("\n")
    row = words.iloc[100]
    assert lines[80 * row.page + row.row][row.start : row.stop] == row.word


def test_nothing_has_no_language() -> None:
    for empty in ("", " \n\t\n", np.full((2, 80, 80), 32, np.uint32)):
        with pytest.raises(UsageError, match="no visible character"):
            zml.predict(empty)
    assert predicted_language(np.full((1, 80, 80), 32, np.uint32)) is None
    with pytest.raises(UsageError, match="does not know the language 'Klingon'"):
        zml.explain("a", "Klingon")


def test_command(tmp_path: Path) -> None:
    good, bad = tmp_path / "misnamed.txt", tmp_path / "bad.bin"
    good.write_text(TEXTS["C"])
    bad.write_bytes(b"\0\1\2")
    ran = CliRunner().invoke(cli, ["predict", str(good), "--why"])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith(f"{good}: C ")
    assert "include" in ran.stdout
    ran = CliRunner().invoke(cli, ["predict", str(bad), "-"], input=TEXTS["Python"])
    assert ran.exit_code == 1
    assert ran.stdout.startswith("-: Python ")
    assert str(bad) in ran.stderr


def test_a_dataset_gets_a_table(taught: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = zml.derive(taught, "predicted_language")
    found = ds.read("language", "predicted_language.value", "predicted_language.confidence")
    assert found["predicted_language.confidence"].between(0, 1).all()
    assert (found["predicted_language.value"] == found["language"]).mean() > 0.6
    assert ds.info.derived["predicted_language"].errors == 0
    known = ds.info.derived["predicted_language"].fingerprint
    assert zml.derive(ds, "predicted_language").info.generation == ds.info.generation
    columns = builtin.BUILT_IN["predicted_language"][1]
    changed = {"predicted_language": (by_model(b"another model"), columns)}
    monkeypatch.setattr(derive, "BUILT_IN", changed)
    again = zml.derive(ds, "predicted_language")
    assert again.info.generation > ds.info.generation
    assert again.info.derived["predicted_language"].fingerprint != known
