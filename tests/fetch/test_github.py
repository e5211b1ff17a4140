"""Which repository and which tag of GitHub a record means."""

from __future__ import annotations

import pytest

from zml_dask.fetch.git import GithubSource, github_source, parse_link
from zml_dask.records.record import RelatedIdentifier

from .records import bare_record, links

# GitHub


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://github.com/owner/name/tree/v1.0", ("owner", "name", "v1.0")),
        ("http://www.github.com/owner/name/tree/v1.0/", ("owner", "name", "v1.0")),
        ("https://github.com/owner/name/tree/release/2.0", ("owner", "name", "release/2.0")),
        ("https://github.com/owner/name/tree/v%2B1", ("owner", "name", "v+1")),
        ("https://github.com/owner/name/releases/tag/v1", ("owner", "name", "v1")),
        ("https://github.com/owner/name/releases/download/v1/x.zip", ("owner", "name", "v1")),
        ("https://github.com/owner/name/archive/v1.tar.gz", ("owner", "name", "v1")),
        ("https://github.com/owner/name/archive/refs/tags/v1.2.zip", ("owner", "name", "v1.2")),
        ("https://github.com/owner/name/zipball/v1", ("owner", "name", "v1")),
        ("https://github.com/owner/name/commit/0123abc", ("owner", "name", "0123abc")),
        ("https://github.com/owner/name", ("owner", "name", None)),
        ("https://github.com/owner/name/", ("owner", "name", None)),
        ("https://github.com/owner/name.git", ("owner", "name", None)),
        ("https://github.com/owner/na.me.git", ("owner", "na.me", None)),
        ("git+https://github.com/owner/name.git", ("owner", "name", None)),
        ("git+https://www.github.com/owner/name", ("owner", "name", None)),
        ("git://github.com/owner/name.git", ("owner", "name", None)),
        ("git@github.com:owner/name.git", ("owner", "name", None)),
        ("ssh://git@github.com/owner/name", ("owner", "name", None)),
        ("github.com/owner/name", ("owner", "name", None)),
        ("https://github.com/owner/name#readme", ("owner", "name", None)),
        ("https://github.com/owner/name/issues?q=1", ("owner", "name", None)),
        ("https://GitHub.com/Owner/Name/tree/V1", ("Owner", "Name", "V1")),
        ("https://github.com/owner", None),
        ("https://github.com.evil.org/owner/name", None),
        ("https://evil.org/github.com/owner/name", None),
        ("https://github.com/owner/..", None),
        ("https://github.com/../name", None),
        ("10.5281/zenodo.1", None),
        ("https://api.github.com/repos/owner/name/zipball/v1", ("owner", "name", "v1")),
        ("https://codeload.github.com/owner/name/zip/refs/tags/v1", ("owner", "name", "v1")),
        ("https://github.com/owner/name/blob/v1/src/a.py", ("owner", "name", "v1")),
        ("git+https://github.com/owner/name.git@v1#egg=x", ("owner", "name", "v1")),
        ("ssh://git@github.com:22/owner/name.git", ("owner", "name", None)),
        ("scm:git:git://github.com/owner/name.git", ("owner", "name", None)),
        ("https://github.com/owner_company/name", ("owner_company", "name", None)),
        ("https://github.com/orgs/owner/repositories", None),
        ("https://owner.github.io/name", None),
        ("https://gitlab.com/owner/name/-/tree/v1", None),
        ("https://github.com/owner/name/tree/--upload-pack=x", ("owner", "name", None)),
        ("https://github.com/owner/name/tree/a..b", ("owner", "name", None)),
        ("https://github.com/owner/name/tree/a%0Ab", ("owner", "name", None)),
    ],
)
def test_every_form_of_link(link: str, expected: tuple[str, str, str | None] | None) -> None:
    assert parse_link(link) == expected


def test_tags_come_from_the_likeliest_link_or_from_the_version() -> None:
    related = (
        RelatedIdentifier("https://github.com/else/where/tree/v9", "references"),
        *links("https://github.com/owner/name", "https://github.com/owner/name/tree/v1"),
    )
    source = github_source(bare_record(related=related, version="2"))
    assert source == GithubSource("https://github.com", "owner", "name", ("v1",))
    plain = bare_record(repository="https://github.com/owner/name", version="v1.0")
    source = github_source(plain)
    assert source is not None
    assert source.tags == ("v1.0", "1.0")
    assert source.archive_url("a b/c").endswith("/owner/name/archive/refs/tags/a%20b/c.zip")
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert source.archive_url(commit).endswith(f"/owner/name/archive/{commit}.zip")
    assert github_source(bare_record()) is None
