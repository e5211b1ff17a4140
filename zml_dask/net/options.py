"""Options of the HTTP client: limits, identity, and the token."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from zml_dask.errors import UsageError
from zml_dask.net.throttle import host_of

CONTACT: Final = "https://pypi.org/project/zml-dask/"


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Patience and limits of a client.

    Attributes
    ----------
    connect_timeout, read_timeout : float
        Seconds to a connection, and between two pieces of an answer.
    deadline : float
        Seconds for one file or answer, all attempts together; time spent
        waiting for the throttle does not count.
    attempts : int
        Tries without progress before giving up.
    backoff, max_backoff : float
        Seconds: the n-th pause is drawn from zero to ``backoff * 2**n``,
        at most `max_backoff`.
    rate_limit_attempts : int
        Answers of 429 to one request before giving up.
    max_json_bytes : int
        Largest JSON body, decoded.
    contact : str
        Where the people behind a build can be reached, a URL or ``mailto:``;
        by default what ``ZML_CONTACT`` says. Part of the ``User-Agent``, without
        which Zenodo blocks a client.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    deadline: float = 3600.0
    attempts: int = 6
    backoff: float = 1.0
    max_backoff: float = 60.0
    rate_limit_attempts: int = 20
    max_json_bytes: int = 256 * 1024 * 1024
    contact: str = field(default_factory=lambda: os.environ.get("ZML_CONTACT", CONTACT))

    def __post_init__(self) -> None:
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise UsageError(
                f"the contact {self.contact!r} cannot be sent to a server: give a URL or a "
                "mailto: address in ASCII, by ZML_CONTACT"
            )

    @property
    def user_agent(self) -> str:
        """The header ``User-Agent``: name, version and contact."""
        return f"zml-dask/{version('zml-dask')} (+{self.contact})"

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; random, so that workers part."""
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(failures, 30))
        return random.uniform(0.0, longest)  # noqa: S311 (no secret depends on it)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the only host that may see it.

    Attributes
    ----------
    value : str
        Never shown.
    host : str
        Host, with its port where it has one (``zenodo.org``).
    """

    value: str = field(repr=False)
    host: str

    @classmethod
    def load(cls, path: str | Path | None, api_url: str) -> Token | None:
        """Load a token from a file, else from ``ZENODO_TOKEN``, for the host of `api_url`.

        Returns
        -------
        Token or None
            None where neither is given.

        Raises
        ------
        UsageError
            Where the file cannot be read, is empty, or holds more than a token.
        """
        if path is None:
            value = os.environ.get("ZENODO_TOKEN", "").strip()
        else:
            try:
                value = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"token file {str(path)!r} cannot be read: {type(error).__name__}; "
                    "give a file that holds the token alone"
                ) from None
            if not value:
                raise UsageError(f"token file {str(path)!r} is empty")
        if not value:
            return None
        if not value.isascii() or not value.isprintable() or " " in value:
            raise UsageError("the access token is not one word of ASCII; check its file")
        return cls(value, host_of(api_url))
