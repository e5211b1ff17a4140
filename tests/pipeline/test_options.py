"""Build options: from a file, checked, and recorded without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from zml_dask.errors import UsageError
from zml_dask.pipeline.build_options import BuildOptions, options_from, read_options


def test_a_file_sets_fields_tables_and_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "build.toml"
    path.write_text(
        'keep_binary = true\nexport = ["pickle", "hdf5"]\n'
        "[image]\nheight = 40\n[limits]\nmax_archive_bytes = 1000\n"
    )
    options = read_options(path, {"limits": {"max_members": 7}}, {"keep_binary": False})
    assert options.keep_binary
    assert options.export == ("pickle", "hdf5")
    assert (options.image.height, options.image.width) == (40, 80)
    assert (options.limits.max_archive_bytes, options.limits.max_members) == (1000, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"exprot": []}, "exprot: no such option; did you mean 'export'"),
        (
            {"limits": {"max_member": 3}},
            r"limits\.max_member: no such option; did you mean 'max_members'",
        ),
        ({"export": ["pickle", 3]}, r"export\[1\]: must be str, not int"),
        ({"export": ["png"]}, "unknown format 'png'"),
        ({"export": "pickle"}, "export: must be a list, not str"),
        ({"prefetch": True}, "prefetch: must be int"),
        ({"limits": {"max_members": "many"}}, "limits.max_members: must be int"),
        ({"limits": 3}, "must be a table"),
        ({"image": {"height": 0}}, "between 1 and 65,535"),
        ({"offline": True}, "needs a cache"),
        ({"partition_records": 0}, "must be 1 or more"),
    ],
)
def test_a_mistake_is_named(content: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options_from(content)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "build.toml"
    path.write_text("export = [")
    with pytest.raises(UsageError, match=r"build\.toml: not TOML"):
        read_options(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_options(tmp_path / "missing.toml")


def test_what_is_recorded_names_no_place_of_this_machine() -> None:
    options = BuildOptions(token_file="/home/me/token", cache="/cache", scratch="/tmp/x")
    recorded = repr(options.recorded())
    assert not any(word in recorded for word in ("token", "/home/me", "/cache", "/tmp/x"))
