"""Licences are recognised by their texts and tags, and compared with what records state."""

from __future__ import annotations

import json
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
from dataset_builders import stage_record, write_dataset

import zml_dask as zml
from zml_dask.derived.licenses import nearest_license
from zml_dask.records.spdx import spdx_ids
from zml_dask.store.commit import commit
from zml_dask.store.storage import Storage


def text_of(name: str) -> str:
    package = find_spec("osslili")
    assert package is not None
    source = Path(str(package.origin)).parent / "data" / "spdx_licenses.json"
    text = json.loads(source.read_text(encoding="utf-8"))["licenses"][name]["text"]
    # As files have it: lines of 79 characters.
    return "\n".join(
        "\n".join(textwrap.wrap(line, 79)) if len(line) > 79 else line for line in text.split("\n")
    )


@pytest.mark.parametrize(
    "name",
    ["MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "GPL-2.0-only", "GPL-3.0-only",
     "LGPL-3.0-only", "AGPL-3.0-only", "MPL-2.0", "Zlib", "Unlicense", "CC0-1.0", "EUPL-1.2",
     "CECILL-2.1", "Artistic-2.0", "BSL-1.0", "0BSD"],
)  # fmt: skip
def test_the_usual_texts_are_told_apart(name: str) -> None:
    text = text_of(name).replace("<year>", "2019").replace("<copyright holders>", "Some Body")
    assert nearest_license("Copyright (c) 2019 Some Body\n" + text)[0] == name
    found, similarity = nearest_license("A Project's Licence\n\n" + text)
    assert found == name
    assert similarity > 0.9


@pytest.mark.parametrize("width", range(60, 80, 5))
def test_a_line_of_a_licence_may_begin_with_copyright(width: int) -> None:
    """ISC's "copyright notice", at the beginning of a line, was taken for the holder's: 0BSD."""
    body = text_of("ISC").partition("Permission")[2].replace("\n", " ")
    wrapped = "\n".join(textwrap.wrap("Permission" + body, width))
    name, similarity = nearest_license(f"Copyright 2019, Some Body\n\n{wrapped}\n")
    assert name == "ISC"
    assert similarity > 0.9


def test_the_lesser_licence_is_found_without_the_one_that_it_adds_to() -> None:
    whole = text_of("LGPL-3.0-only")
    alone = whole.partition("GNU GENERAL PUBLIC LICENSE")[0]
    assert len(alone) < len(whole) / 3
    for text in (whole, alone):
        name, similarity = nearest_license(text)
        assert name == "LGPL-3.0-only"
        assert similarity > 0.99


def test_other_texts_are_no_licence() -> None:
    assert nearest_license("")[1] == 0
    assert nearest_license("int main(void) { return 0; }")[1] < 0.3
    readme = "This program is free software; see the file COPYING for its licence. " * 20
    assert nearest_license(readme)[1] < 0.5


@pytest.mark.parametrize("name", ["Apache-2.0", "GPL-2.0-only", "GPL-3.0-only", "AGPL-3.0-only"])
def test_a_licence_without_how_to_apply_it_is_itself(name: str) -> None:
    shorter, end, how_to_apply = text_of(name).partition("END OF TERMS AND CONDITIONS")
    assert how_to_apply
    assert nearest_license(shorter + end)[0] == name


def test_a_dataset_s_licences(tmp_path: Path) -> None:
    storage = write_dataset(Storage.open(tmp_path / "ds"), tmp_path)
    long_lines = text_of("MIT").replace("\n", " ")
    wrapped_at_100 = "\n".join(textwrap.wrap(text_of("BSD-3-Clause"), 100))
    contents = {
        61: ("mit", [("LICENSE", text_of("MIT")), ("a.py", "# SPDX-License-Identifier: MIT\n")]),
        62: ("gpl-3.0", [("x/LICENSE.txt", text_of("Apache-2.0")), ("license.py", "x = 1\n")]),
        63: ("bsd-3-clause", [("COPYING", wrapped_at_100), ("LICENSE-other", long_lines[:300])]),
        64: ("gpl-2.0+", [("COPYING2", text_of("GPL-2.0-only"))]),
        65: (None, [("LICENSE.md", text_of("ISC"))]),
        66: ("mit", [("b.c", "/* SPDX-License-Identifier: GPL-2.0+ OR MIT */\nint x;\n")]),
    }
    for record_id, (stated, of_record) in contents.items():
        stage_record(
            storage,
            tmp_path,
            record_id,
            of_record,
            {"license": stated, "licenses": spdx_ids(stated)},
        )
    commit(storage)
    ds = zml.derive(storage.url, "license_detected")
    rows = ds.select("record_id > 60").read(
        "record_id", "path", *(f"license_detected.{c}" for c in ("license", "how"))
    )
    found = {(row[0], row[1]): row[2:] for row in rows.itertuples(index=False, name=None)}
    assert found[61, "LICENSE"] == ("MIT", "text")
    assert found[61, "a.py"] == ("MIT", "tag")
    assert found[62, "x/LICENSE.txt"] == ("Apache-2.0", "text")
    assert found[63, "COPYING"] == ("BSD-3-Clause", "text")
    assert found[64, "COPYING2"] == ("GPL-2.0-only", "text")
    assert found[65, "LICENSE.md"] == ("ISC", "text")
    assert found[66, "b.c"] == ("GPL-2.0+ OR MIT", "tag")
    assert rows.set_index("path").loc["license.py"].isna()["license_detected.license"]
    # How many records state a licence, and contain the text of another: that of 62 does.
    same = "regexp_replace(x, '-(only|or-later)$', '')"
    disagree = ds.sql(f"""
        SELECT record_id FROM records JOIN (
            SELECT record_id, list(DISTINCT license_detected.license) AS found
            FROM license_detected WHERE how = 'text' GROUP BY record_id
        ) USING (record_id)
        WHERE len(licenses) > 0 AND NOT list_has_any(
            list_transform(found, lambda x: {same}), list_transform(licenses, lambda x: {same}))
    """).fetchall()
    assert disagree == [(62,)]
