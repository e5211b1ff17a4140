"""The settings of a section of dask-jobqueue, and their types.

A name that does not exist is an error that names the nearest one, for a setting that is ignored
is found out days later.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import distributed
import msgspec
import yaml

from zml_dask.arguments import nearest
from zml_dask.errors import UsageError


def _is(pattern: str, description: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=rf"^(?:{pattern})$", description=description)


Text = Annotated[str, msgspec.Meta(min_length=1, description="text")]
Count = Annotated[int, msgspec.Meta(ge=1, description="a whole number of 1 or more")]
Words = Annotated[list[str], msgspec.Meta(description='a list, such as ["--one", "--two"]')]
Size = Annotated[str, _is(r"\d+(\.\d+)?\s*[kKMGTP](i?B)?", "a size with its unit, such as 4GiB")]
Walltime = Annotated[
    str,
    _is(
        r"(\d+-)?\d+(:\d+){0,2}|(?i:unlimited|infinite)",
        'a time as the queue writes it, such as "04:00:00"; a bare number is minutes to one '
        "queue and seconds to another",
    ),
]
LsfWalltime = Annotated[
    str,
    _is(
        r"\d+(:\d+)?",
        'a time as LSF writes it, hours and minutes such as "04:00"; a bare number is minutes',
    ),
]
Seconds = Annotated[
    str, _is(r"\d+(\.\d+)?\s*(s|sec|min|m|h)?", "a time, such as 120 (seconds) or 2min")
]
Flag = Annotated[bool, msgspec.Meta(description="true or false")]
Mapped = Annotated[dict[str, Any], msgspec.Meta(description="a mapping, such as {host: login3}")]


_TYPES: Final[Mapping[str, Any]] = {
    "account": Text,
    "cancel-command-extra": Words,
    "cores": Count,
    "death-timeout": Seconds,
    "disk": Size,
    "interface": Text,
    "job-cpu": Count,
    "job-directives-skip": Words,
    "job-extra-directives": Words,
    "job-mem": Size,
    "job-script-prologue": Words,
    "local-directory": Text,
    "log-directory": Text,
    "lsf-units": Text,
    "mem": Size,
    "memory": Size,
    "memory-per-core-property-name": Text,
    "name": Text,
    "ncpus": Count,
    "processes": Count,
    "project": Text,
    "python": Text,
    "queue": Text,
    "resource-spec": Text,
    "scheduler-options": Mapped,
    "shared-temp-directory": Text,
    "shebang": Text,
    "submit-command-extra": Words,
    "use-stdin": Flag,
    "walltime": Walltime,
    "worker-command": Text,
    "worker-extra-args": Words,
}
"""Of the settings of all batch systems; which of them a system has, dask-jobqueue says."""

_TYPES_OF_SYSTEM: Final[Mapping[tuple[str, str], Any]] = {
    ("htcondor", "job-extra-directives"): Mapped,  # pairs, not lines
    ("lsf", "walltime"): LsfWalltime,
}

OLD_NAMES: Final[Mapping[str, str]] = {
    "extra": "worker-extra-args",
    "env-extra": "job-script-prologue",
    "job-extra": "job-extra-directives",
    "header-skip": "job-directives-skip",
    "project": "account",
}
"""What dask-jobqueue's settings were called before -> what they are called now."""

# What the batch systems' own commands, or other tools, call it.
OTHER_NAMES: Final[Mapping[str, str]] = {
    "partition": "queue",
    "time": "walltime",
    "mem": "memory",
    "cpus": "cores",
    "cpus-per-task": "cores",
    "ncpus": "cores",
    "ppn": "cores",
    "threads": "cores",
    "nodelist": "job-extra-directives",
    "constraint": "job-extra-directives",
    "qos": "job-extra-directives",
    "job-name": "name",
    "account": "project",
    "output": "log-directory",
    "scratch": "local-directory",
    "modules": "job-script-prologue",
    "prologue": "job-script-prologue",
}


@cache
def defaults() -> Mapping[str, Mapping[str, Any]]:
    """Return dask-jobqueue's own file: batch system -> setting -> default value."""
    package = find_spec("dask_jobqueue")  # importing it takes long
    assert package is not None  # noqa: S101 - a dependency
    assert package.origin is not None  # noqa: S101
    text = Path(package.origin).with_name("jobqueue.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)["jobqueue"]
    return found


def systems() -> list[str]:
    """Return the names of the batch systems; also ``local``, dask-jobqueue's own for tests."""
    return list(defaults())


def system_of(section: str) -> str:
    """Return the batch system of a section: ``slurm``, and also that of ``slurm-highmem``.

    Examples
    --------
    >>> system_of("slurm-highmem")
    'slurm'
    """
    return hyphens(section).partition("-")[0]


def setting_names(system: str) -> list[str]:
    """Return the names of the settings that a batch system has; none for an unknown one.

    Examples
    --------
    >>> "job-mem" in setting_names("slurm"), "job-mem" in setting_names("pbs")
    (True, False)
    """
    names = defaults().get(system, {})
    return [name for name in names if OLD_NAMES.get(name) not in names]


def renamed(values: Mapping[Any, Any], section: str, where: str) -> dict[str, Any]:
    """Return settings under their current names."""
    known = setting_names(system_of(section))
    renamed: dict[str, Any] = {}
    for given, value in values.items():
        name = hyphens(str(given))
        new = OLD_NAMES.get(name, name)
        if name in OLD_NAMES and name not in known and new in known:
            if not value:  # the old files list the old names, with nothing in them
                continue
            name = new
        if name in renamed:
            raise UsageError(f"{where}: {name} is given twice, once as {given}")
        renamed[name] = value
    return renamed


def decoded(section: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings of a section, each of its type.

    They are given by today's names, as :func:`renamed` returns them. `where` names their place in
    messages. Raises `UsageError` for the first that is unknown or of another type.
    """
    system = system_of(section)
    known = setting_names(system)
    decoded: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            other = OTHER_NAMES.get(name)
            advice = f"did you mean {other!r}?" if other in known else nearest(name, known)
            raise UsageError(f"{where}: there is no setting {name}; {advice}")
        kind = _TYPES_OF_SYSTEM.get((system, name), _TYPES.get(name, Any))
        decoded[name] = _converted(f"{where}.{name}", value, kind)
        if name == "job-extra-directives" and any(str(v).startswith("#") for v in value or ()):
            raise UsageError(
                f"{where}.{name}: write the options alone, such as --nice=1: each becomes a line "
                "of the job script, behind the mark of its batch system"
            )
    options = decoded.get("scheduler-options")
    if options:
        decoded["scheduler-options"] = _scheduler_options(f"{where}.scheduler-options", options)
    return decoded


def _converted(where: str, value: Any, kind: Any) -> Any:
    """Return a value as its setting's type; numbers may stand for text, but not for times."""
    if value is None or kind is Any:
        return value
    candidate = value
    if isinstance(value, list):
        candidate = [str(word) if _is_number(word) else word for word in value]
    elif _is_number(value) and kind not in (Count, Walltime, LsfWalltime):
        candidate = str(value)
    try:
        return msgspec.convert(candidate, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError:
        description = kind.__metadata__[0].description
        raise UsageError(f"{where}: {value!r} is not {description}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scheduler_options(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scheduler's keyword arguments, with - or _ in their names."""
    known = [
        name
        for cls in (distributed.Scheduler, distributed.core.Server)
        for name in inspect.signature(cls.__init__).parameters
        if name not in {"self", "kwargs", "handlers", "stream_handlers", "loop"}
    ]
    result = {}
    for given, value in options.items():
        name = str(given).replace("-", "_")
        if name not in known:
            raise UsageError(f"{where}: there is no option {given}; {nearest(name, known)}")
        result[name] = value
    return result


def hyphens(name: str) -> str:
    """Return a name with hyphens: to Dask's configuration - and _ are the same."""
    return name.replace("_", "-")
