"""Which process on which machine: enough to tell whether a lock's owner still lives."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from every other that ever had its number.

    Attributes
    ----------
    host : str
        Name of the machine.
    realm : str
        Boot and process namespace: two containers may share a host's name, and
        a machine its numbers with its former self before a reboot.
    pid : int
    started : str
        When it started, by a clock that does not jump.
    """

    host: str
    realm: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return this process's identity."""
        pid = os.getpid()
        return cls(platform.node(), _realm(), pid, _started(pid) or "")

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ProcessIdentity:
        """Read back what :meth:`to_json` gave."""
        return cls(
            str(content["host"]),
            str(content["realm"]),
            int(content["pid"]),
            str(content["started"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the identity as a JSON object."""
        return asdict(self)

    def is_gone(self) -> bool | None:
        """Tell whether the process has ended; None where that cannot be seen from here."""
        if (self.host, self.realm) != (platform.node(), _realm()):
            return None
        return _started(self.pid) != self.started


def _realm() -> str:
    """Name this boot of the machine and this process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: the host's name must do
        return ""


def _started(pid: int) -> str | None:
    """Return when process `pid` started, or None where it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return _started_by_psutil(pid)
    except OSError:
        return _started_by_psutil(pid)
    # The name, in brackets, may hold anything; field 3 is the state, field 22 the
    # start in clock ticks since boot (proc(5)). A zombie no longer works.
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] in "ZX" else after_name[19]


def _started_by_psutil(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        # Whole seconds: this time is derived from the wall clock, which may be nudged.
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
