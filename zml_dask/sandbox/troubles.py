"""A few small records with typical problems of real ones; always the same."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final

from zml_dask.sandbox.archives import Source, write_tar_gz, zip_bytes
from zml_dask.sandbox.corpus import SandboxRecord, Withdrawal, make_record

RESTRICTED: Final = 16_000_001
METADATA_ONLY: Final = 16_000_003
WITHDRAWN: Final = 16_000_005
SEVERAL_ARCHIVES: Final = 16_000_007
SUPERSEDED: Final = 16_000_009
GCUBE: Final = 16_000_011
DATASET: Final = 16_000_013
BARE_SCRIPT: Final = 16_000_015

_WHEN: Final = datetime(2026, 1, 15, 12, tzinfo=UTC)
_README: Final = b"# Tides\n\nPredicts the tides of a harbour from a year of soundings.\n"
_SCRIPT: Final = (
    b"from math import cos, tau\n\n\n"
    b"def height(hours, parts):\n"
    b'    """Height of the tide: a sum of harmonics (amplitude, period, phase)."""\n'
    b"    return sum(a * cos(tau * (hours - p) / t) for a, t, p in parts)\n"
)


def troubled_records() -> list[SandboxRecord]:
    """Make the records, each with a different problem."""
    plain = [Source("README.md", _README), Source("tides/model.py", _SCRIPT)]
    archive = zip_bytes("harbour-tides-0a1b2c3", plain, when=_WHEN)
    base: dict[str, Any] = {
        "created": _WHEN,
        "creators": ("Doodson, A. T.",),
        "license": "mit",
        "version": "v1.0",
    }
    several = {
        "harbour/tides-v1.1.zip": archive,
        "soundings.tar.gz": _tar(),
        "plot tides.py": _SCRIPT,
    }
    return [
        make_record(
            RESTRICTED, {"tides.zip": archive}, title="Tides, kept", access="restricted", **base
        ),
        make_record(METADATA_ONLY, title="Tides, announced", access="metadata-only", **base),
        make_record(
            WITHDRAWN,
            {"tides.zip": archive},
            title="Tides, withdrawn",
            withdrawal=Withdrawal(),
            **base,
        ),
        make_record(
            SEVERAL_ARCHIVES,
            several,
            title="harbour/tides: with soundings",
            concept_id=16_000_006,
            related=(("https://github.com/harbour/tides/tree/v1.1", "isSupplementTo", "url"),),
            **(base | {"version": "v1.1"}),
        ),
        make_record(
            SUPERSEDED,
            {"harbour/tides-v1.0.zip": archive},
            title="harbour/tides: first",
            concept_id=16_000_006,
            is_latest=False,
            **(base | {"created": datetime(2025, 6, 1, tzinfo=UTC)}),
        ),
        make_record(GCUBE, {"gcube.zip": archive}, title="gCube Tides Service", **base),
        make_record(
            DATASET,
            {"soundings.tar.gz": _tar()},
            title="Soundings",
            resource_type="dataset",
            **base,
        ),
        make_record(BARE_SCRIPT, {"height.py": _SCRIPT}, title="One script", **base),
    ]


def _tar() -> bytes:
    target = BytesIO()
    table = "".join(f"{hour},{hour % 12 / 3:.2f}\n" for hour in range(200))
    files = [
        Source("soundings.csv", table.encode()),
        Source("LISEZMOI", "Données\n".encode("latin-1")),
    ]
    write_tar_gz(target, "soundings", files, when=_WHEN, commit="0" * 40)
    return target.getvalue()
