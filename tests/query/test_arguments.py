"""Wrong arguments of public functions: one line that says what, and never Python's own error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_builders import write_dataset

import zml_dask as zml
from zml_dask.errors import UsageError, ZmlError
from zml_dask.store.storage import Storage


class Odd:
    def __repr__(self) -> str:
        return "<Odd\nobject>"


WRONG: list[Any] = [
    *(None, 5, -1, 2.5, float("nan"), 10**30, True),
    *("nosuch", "", b"x", ["path"], [], {}, Odd(), np.zeros(3)),
]

RECORD = {"id": 7, "metadata": {"title": "No files"}, "files": []}


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> zml.Dataset:
    base = tmp_path_factory.mktemp("arguments")
    return zml.open_dataset(write_dataset(Storage.open(base / "ds"), base).url)


def cases(ds: zml.Dataset, folder: Path) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Return every public function, and arguments with which it works."""
    view = ds.select("n_lines > 60")
    needed: dict[str, dict[str, Any]] = {
        "sample": {"n": 3},
        "sql": {"query": "select 1"},
        "ask": {"query": "select 1"},
        "text": {"file": 0},
        "image": {"file": 0},
        "grep": {"pattern": "zzz"},
        "similar": {"text": "import numpy"},
        "split": {"fractions": {"a": 1.0}},
        "export": {"path": str(folder / "e"), "format": "croissant"},
        "save": {"path": str(folder / "s")},
    }
    methods = [name for name in dir(zml.Dataset) if not name.startswith("_")]
    found = [
        (name, getattr(view, name), needed.get(name, {}))
        for name in methods
        if inspect.isfunction(getattr(zml.Dataset, name)) and name != "to_huggingface"
    ]
    record = zml.parse_record(RECORD)
    return [
        *found,
        ("open_dataset", zml.open_dataset, {"path": ds.url}),
        ("predict", zml.predict, {"source": "import numpy"}),
        ("explain", zml.explain, {"source": "import numpy"}),
        ("rasterize", zml.rasterize, {"text": "a"}),
        ("to_text", zml.to_text, {"images": zml.rasterize("a")[0]}),
        ("parse_record", zml.parse_record, {"hit": RECORD}),
        ("verify", zml.verify, {"url": ds.url}),
        ("commit", zml.commit, {"storage": Storage.open(folder / "c")}),
        ("BuildOptions", zml.BuildOptions, {}),
        ("Catalogue.open", zml.Catalogue.open, {"path": folder / "none.jsonl"}),
        ("Storage.open", zml.Storage.open, {}),
        ("process", zml.process, {"record": record, "dataset": folder / "p"}),
        ("build", zml.build, {"records": [], "dataset": folder / "b"}),
        ("derive", zml.derive, {"ds": folder / "d", "name": "x", "schema": {"n": "int32"}}),
    ]


def calls(
    function: Callable[..., Any], needed: Mapping[str, Any], value: Any
) -> list[tuple[str, partial[Any]]]:
    """Return calls that give one of a function's parameters a value, and else what it needs."""
    found = []
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            found.append((name, partial(function, value)))
        elif parameter.kind is not parameter.VAR_KEYWORD:
            found.append((name, partial(function, **{**needed, name: value})))
    return found


def test_no_wrong_argument_ends_in_an_error_of_python(
    ds: zml.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong, tried = [], 0
    for name, function, needed in cases(ds, tmp_path):
        for value in WRONG:
            for parameter, call in calls(function, needed, value):
                tried += 1
                try:
                    answer = call()
                    if inspect.isgenerator(answer):
                        next(answer, None)
                except ZmlError as error:
                    if "\n" in str(error) or len(str(error)) > 400:
                        wrong.append(f"{name}({parameter}={value!r}): {error}")
                except Exception as error:  # noqa: BLE001 - what is looked for
                    wrong.append(f"{name}({parameter}={value!r}): {error!r}")
    assert tried > 1_000
    assert not wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda ds: ds.read(["path"]),
            r"read\(\): names has to be text, not \['path'\]; give them",
        ),
        (lambda ds: ds.sql(None), r"Dataset.sql\(\): query has to be text, not None"),
        (lambda ds: ds.counts(None), r"by has to be text or a list of texts, not None"),
        (
            lambda ds: ds.select(publication_date=["2014-01-02 10:00", "2014-13-45"]),
            r"^publication_date='2014-13-45': publication_date is a date, .* '2015-01-31'",
        ),
        (lambda ds: ds.select(publication_date="2014-01-01'"), r"^publication_date=.* is a date"),
        (
            lambda ds: zml.open_dataset("memory://x", {1: 2}),
            r"storage_options has to be a mapping or None, not \{1: 2\}",
        ),
        (lambda ds: ds.head("x"), r"Dataset.head\(\): n has to be a whole number, not 'x'"),
        (lambda ds: ds.head(True), r"n has to be a whole number, not True"),
        (lambda ds: ds.sample(3, seed="x"), r"seed has to be a whole number, not 'x'"),
        (lambda ds: ds.sample(3, seed=-1), r"n and seed: .* not 3 and -1"),
        (lambda ds: ds.similar(text="a b", k=2.5), r"k has to be a whole number, not 2.5"),
        (lambda ds: ds.grep(5), r"Dataset.grep\(\): pattern has to be text, not 5"),
        (lambda ds: zml.open_dataset(None), r"open_dataset\(\): path has to be text or a path"),
        (lambda ds: zml.predict("a", model="x"), r"model has to be a LanguageModel or None"),
        (lambda ds: zml.explain("a", "Pyhton"), r"did you mean 'Python'\?"),
        (lambda ds: ds.to_xarray("nosuch"), r"no column 'nosuch'; .* lists all"),
        (lambda ds: zml.predict(None), r"source has to be an array or text, not None"),
        (lambda ds: ds.split({"a": "1"}), r"fractions has to be a mapping such as .*'train'"),
        (lambda ds: ds.batches().set_epoch("x"), r"epoch has to be a whole number, not 'x'"),
        (lambda ds: ds.batches().load_state_dict({}), r"give what state_dict\(\) returned"),
        (lambda ds: ds.cite("apa"), r"format has to be 'bibtex' or 'csl', not 'apa'"),
        (lambda ds: ds.batches(encoding="x"), r"encoding has to be 'codepoint' or .* not 'x'"),
        (lambda ds: zml.BuildOptions(limits=5), r"limits has to be a FetchLimits, not 5"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_should_be(
    ds: zml.Dataset, call: Callable[[zml.Dataset], Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        call(ds)


def test_what_fits_is_taken_as_it_is_meant(ds: zml.Dataset) -> None:
    """NumPy's numbers are numbers, and one name stands for a list of one."""
    assert len(ds.head(np.int64(3))) == 3
    assert len(ds.sample(np.uint8(3), seed=np.int32(1))) == 3
    assert ds.counts(("language", "license")).index.names == ["language", "license"]
    assert "license" in ds.to_xarray("license").coords
    assert ds.sql("select 1 as n", timeout=np.float32(9)).fetchall() == [(1,)]
