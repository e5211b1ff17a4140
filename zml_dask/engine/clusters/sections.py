"""Which settings a section of dask-jobqueue has, and of what type each is.

One model for reading and for checking: a name that is not in it is an error that names the
nearest one, for a setting that is ignored is found out days later.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Final, get_type_hints

import distributed
import msgspec

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
Seconds = Annotated[
    str, _is(r"\d+(\.\d+)?\s*(s|sec|min|m|h)?", "a time, such as 120 (seconds) or 2min")
]
Flag = Annotated[bool, msgspec.Meta(description="true or false")]
Mapped = Annotated[dict[str, Any], msgspec.Meta(description="a mapping, such as {host: login3}")]


class Section(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What dask-jobqueue's sections of all batch systems may set."""

    name: Text | None = None
    cores: Count | None = None
    memory: Size | None = None
    processes: Count | None = None
    python: Text | None = None
    interface: Text | None = None
    death_timeout: Seconds | None = None
    local_directory: Text | None = None
    shared_temp_directory: Text | None = None
    worker_command: Text | None = None
    worker_extra_args: Words | None = None
    shebang: Text | None = None
    job_script_prologue: Words | None = None
    job_extra_directives: Words | None = None
    job_directives_skip: Words | None = None
    log_directory: Text | None = None
    scheduler_options: Mapped | None = None


class _Queued(Section, frozen=True, kw_only=True, rename="kebab"):
    queue: Text | None = None
    walltime: Walltime | None = None


class _Slurm(_Queued, frozen=True, kw_only=True, rename="kebab"):
    account: Text | None = None
    job_cpu: Count | None = None
    job_mem: Size | None = None


class _Pbs(_Queued, frozen=True, kw_only=True, rename="kebab"):
    account: Text | None = None
    resource_spec: Text | None = None


class _Sge(_Queued, frozen=True, kw_only=True, rename="kebab"):
    project: Text | None = None
    resource_spec: Text | None = None


class _Oar(_Sge, frozen=True, kw_only=True, rename="kebab"):
    memory_per_core_property_name: Text | None = None


class _Lsf(_Queued, frozen=True, kw_only=True, rename="kebab"):
    project: Text | None = None
    ncpus: Count | None = None
    mem: Size | None = None
    lsf_units: Text | None = None
    use_stdin: Flag | None = None


class _HTCondor(Section, frozen=True, kw_only=True, rename="kebab"):
    disk: Size | None = None
    job_extra_directives: Mapped | None = None  # type: ignore[assignment] # pairs, not lines
    submit_command_extra: Words | None = None
    cancel_command_extra: Words | None = None


SECTIONS: Final[Mapping[str, type[Section]]] = {
    "slurm": _Slurm,
    "pbs": _Pbs,
    "sge": _Sge,
    "lsf": _Lsf,
    "moab": _Pbs,
    "oar": _Oar,
    "htcondor": _HTCondor,
    # dask-jobqueue's own, for tests: its file lists it, and so may a copy of that file.
    "local": Section,
}
"""Batch system -> the settings of its sections."""

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


def system_of(section: str) -> str:
    """Batch system of a section: ``slurm``, and also that of ``slurm-highmem``.

    Examples
    --------
    >>> system_of("slurm-highmem")
    'slurm'
    """
    return hyphens(section).partition("-")[0]


def setting_names(system: str) -> list[str]:
    """Names of the settings that a section of a batch system may have.

    Examples
    --------
    >>> "job-mem" in setting_names("slurm"), "job-mem" in setting_names("pbs")
    (True, False)
    """
    return list(types_of(SECTIONS[system]))


def renamed(values: Mapping[Any, Any], section: str, where: str) -> dict[str, Any]:
    """Settings under today's names."""
    model = SECTIONS.get(system_of(section))
    known = set() if model is None else set(types_of(model))
    renamed: dict[str, Any] = {}
    for given, value in values.items():
        name = hyphens(str(given))
        new = OLD_NAMES.get(name, name)
        if name in OLD_NAMES and name not in known and new in known:
            if not value:  # the old files list the old names, with nothing in them
                continue
            name = new
        if name in renamed:
            raise UsageError(f"{where}: {name} is there twice, once as {given}")
        renamed[name] = value
    return renamed


def decoded(section: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of a section, each of its type.

    Parameters
    ----------
    section : str
    values : mapping
        By today's names, as :func:`renamed` gives them.
    where : str
        What messages say of their place.

    Raises
    ------
    UsageError
        For the first that is unknown or of another type.
    """
    model = SECTIONS[system_of(section)]
    types = types_of(model)
    decoded: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            other = OTHER_NAMES.get(name)
            advice = f"did you mean {other!r}?" if other in types else nearest(name, types)
            raise UsageError(f"{where}: there is no setting {name}; {advice}")
        decoded[name] = _converted(f"{where}.{name}", value, types[name])
    options = decoded.get("scheduler-options")
    if options:
        decoded["scheduler-options"] = _scheduler_options(f"{where}.scheduler-options", options)
    return decoded


def types_of(model: type[Section]) -> dict[str, Any]:
    """Name of each setting -> its annotated type."""
    hints = get_type_hints(model, include_extras=True)
    fields = msgspec.structs.fields(model)
    return {field.encode_name: hints[field.name] for field in fields}


def _converted(where: str, value: Any, kind: Any) -> Any:
    """A value as its setting's type; numbers may stand for text, but not for times."""
    description = next(
        meta.description
        for part in kind.__args__
        for meta in getattr(part, "__metadata__", ())
        if meta.description
    )
    candidate = value
    if isinstance(value, list):
        candidate = [str(word) if _is_number(word) else word for word in value]
    elif _is_number(value) and Count not in kind.__args__ and Walltime not in kind.__args__:
        candidate = str(value)
    try:
        return msgspec.convert(candidate, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError:
        raise UsageError(f"{where}: {value!r} is not {description}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scheduler_options(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's own keyword arguments, however they are spelt."""
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
    """A name in the spelling of Dask's configuration, to which - and _ are the same."""
    return name.replace("_", "-")
