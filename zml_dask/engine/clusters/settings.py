"""The settings in force of a cluster, and the source of each."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dask
import yaml

from zml_dask.arguments import nearest
from zml_dask.engine.clusters.cluster_options import ClusterOptions
from zml_dask.engine.clusters.sections import (
    OTHER_NAMES,
    decoded,
    defaults,
    hyphens,
    renamed,
    setting_names,
    system_of,
    systems,
)
from zml_dask.errors import UsageError

# What holds on every cluster that this package starts. Three deaths of its workers
# fail a record, one by chance (preemption) does not, see `zml_dask.engine.isolation`.
# Results are counts, never worth spilling; a worker near its limit should stop
# taking work and then die with the one record that fills it.
_CLUSTER_CONFIG: Final[dict[str, Any]] = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.deploy.lost-worker-timeout": "5s",
    # 40 bytes a record: 20 MiB for half a million, and no reason to warn.
    "distributed.admin.large-graph-warning-threshold": "200MiB",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # Dask's own watching takes a twentieth of a small machine: each worker's stack is
    # sampled a hundred times a second, and every process wakes fifty times a second to
    # see how late it wakes. A tenth of that shows as much of tasks that last seconds.
    "distributed.worker.profile.interval": "100ms",
    "distributed.admin.tick.interval": "200ms",
}

OURS: Final = "zml-dask"
"""The source of a value that no configuration gives."""


# Sections that other packages of Dask's family put into the same files.
_OTHER_SECTIONS: Final = frozenset(
    {"array", "cloudprovider", "dask", "dataframe", "gateway", "kubernetes", "labextension"}
    | {"logging", "optimization", "rmm", "scheduler", "temporary-directory", "tokenize", "ucx"}
)

# Settings of distributed whose names the user chooses.
_FREE: Final = frozenset(
    {"distributed.logging", "distributed.nanny.environ", "distributed.nanny.pre-spawn-environ"}
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and its source: a file and its section, an environment variable, or this package."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class ResolvedSection:
    """The settings in force of a section, such as ``slurm-highmem`` of the system ``slurm``.

    `given` holds the values that somebody gave or that dask-jobqueue sets.
    """

    name: str
    system: str
    given: Mapping[str, Setting]

    def __getitem__(self, name: str) -> Any:
        setting = self.given.get(name)
        return None if setting is None else setting.value


@dataclass(frozen=True, slots=True)
class _Layer:
    """Sections of one source: name -> setting -> value; the names with hyphens."""

    source: str
    sections: Mapping[str, Mapping[str, Any]]

    def decoded(self, section: str) -> dict[str, Any]:
        """The settings of a section, each of its type."""
        return decoded(section, self.sections[section], f"{self.source}: jobqueue.{section}")


class _Yaml(yaml.SafeLoader):
    """Reads plain words by the rules of YAML 1.2.

    Those of 1.1 read ``2:00:00`` as 7200, ``0123`` as 83 and a queue called ``no`` as false.
    A key that is given twice is an error, as in YAML itself; PyYAML takes the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _TwiceError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
                seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return made


class _TwiceError(yaml.YAMLError):
    """A key of a mapping is given twice."""


_PLAIN: Final = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    "null": (r"~|null|Null|NULL|", "~nN\0"),
}
_PLAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_Yaml.yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}
for _name, (_pattern, _first) in _PLAIN.items():
    _letters = ["" if letter == "\0" else letter for letter in _first]
    _Yaml.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _letters
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a Dask configuration file; return nested settings.

    Settings of ``jobqueue`` and the names of its sections have hyphens. Raises `UsageError` where
    the file cannot be read or is not a mapping, or a setting is unknown or of the wrong type.
    """
    where = f"--cluster-config {path}"
    content = _load(path, where)
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{where} holds no settings")
    content = _nested(content)
    for name in content:
        _check_section_name(str(name), where)
    if content.get("distributed") is not None:
        _check_known(content["distributed"], "distributed", where)
    layer = _layer(content, where)
    for section in layer.sections:
        if system_of(section) not in systems():
            raise UsageError(
                f"{where}: there is no batch system {section}; {nearest(section, systems())}"
            )
        layer.decoded(section)
    return {**content, "jobqueue": dict(layer.sections)}


def settings_of(options: ClusterOptions) -> dict[str, Any]:
    """Return Dask's settings, by dotted name: ours, and over them those of the user's file.

    Those of ``jobqueue`` are not among them, see :func:`resolve`. Raises `UsageError` as
    :func:`read_config` does.
    """
    return {name: setting.value for name, setting in dask_settings_of(options).items()}


def exported_settings(options: ClusterOptions) -> list[str]:
    """Return lines of a job script that export the settings in force here to its worker.

    Examples
    --------
    >>> "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in exported_settings(
    ...     ClusterOptions())
    True
    """
    return [
        f"export DASK_{name.upper().replace('.', '__').replace('-', '_')}={shlex.quote(str(value))}"
        for name, value in settings_of(options).items()
        if not name.startswith("distributed.scheduler.")
    ]


def resolve(section: str, options: ClusterOptions) -> ResolvedSection:
    """Find the settings in force of a section of dask-jobqueue.

    Sources are, from the weakest: dask-jobqueue's defaults, the configuration files that Dask finds
    (``/etc/dask``, ``~/.config/dask``, ``DASK_CONFIG``), variables such as
    ``DASK_JOBQUEUE__SLURM__QUEUE``, what the program has set by ``dask.config``, and the file that
    the user names. A section of the user's own, such as ``slurm-highmem``, inherits from its
    system's.

    Raises `UsageError` where there is no such section, or a setting is unknown or of the wrong
    type.
    """
    section = hyphens(section)
    system = system_of(section)
    layers = list(_layers(options))
    names = {name for layer in layers for name in layer.sections}
    if system not in systems() or system == "local" or section not in names:
        known = sorted(n for n in names if system_of(n) in systems() and n != "local")
        raise UsageError(
            f"--cluster {section!r} is not known; {nearest(section, ['local', *known])} (it is "
            "a section of the cluster configuration, tcp://HOST:PORT, tls://HOST:PORT, or the "
            "path of a scheduler file)"
        )
    given: dict[str, Setting] = {}
    for name in dict.fromkeys((system, section)):
        for layer in layers:
            if name in layer.sections:
                values = layer.decoded(name)
                given |= {key: Setting(v, f"{layer.source}, {name}") for key, v in values.items()}
    given = {name: setting for name, setting in given.items() if setting.value is not None}
    for name in ("log-directory", "shared-temp-directory", "python"):
        if name in given:
            given[name] = _expanded(name, given[name])
    return ResolvedSection(section, system, given)


def sections_of(options: ClusterOptions) -> list[str]:
    """Return the sections of the user's file; without a file, those of every batch system."""
    if options.config is None:
        return [name for name in systems() if name != "local"]
    return list(read_config(options.config)["jobqueue"])


def dask_settings_of(options: ClusterOptions) -> dict[str, Setting]:
    """Return Dask's settings for workers, without ``jobqueue``: dotted name -> value and source."""
    settings = {name: Setting(value, OURS) for name, value in _CLUSTER_CONFIG.items()}
    if options.config is not None:
        content = read_config(options.config)
        del content["jobqueue"]
        source = str(options.config)
        for name, value in _flattened(content):
            settings[name] = _expanded_deep(name, Setting(value, source))
    return settings


def _layers(options: ClusterOptions) -> Iterator[_Layer]:
    """Yield the sources of jobs' settings, the weakest first."""
    yield _layer({"jobqueue": defaults()}, "dask-jobqueue")
    found = [path for path, _ in dask.config.collect_yaml(dask.config.paths, return_paths=True)]
    for path in found:
        content = _load(path, str(path))
        if isinstance(content, dict):
            yield _layer(_nested(content), str(path))
    yield _layer(dask.config.collect_env(), "environment variables DASK_JOBQUEUE__*")
    yield _set_by_program()
    if options.config is not None:
        yield _layer(read_config(options.config), str(options.config))


def _set_by_program() -> _Layer:
    """Return what ``dask.config.set`` has changed in this process."""
    collected = [*dask.config.collect_yaml(dask.config.paths), dask.config.collect_env()]
    # To Dask's own YAML a walltime may be a number: like is compared with like.
    ours: dict[str, Any] = {"jobqueue": defaults()}
    before = [_spelt(ours), _spelt(dask.config.merge(ours, *collected))]
    changed = {
        section: {
            name: value
            for name, value in values.items()
            if all(value != tree.get(section, {}).get(name) for tree in before)
        }
        for section, values in _spelt(dask.config.config).items()
    }
    return _layer(
        {"jobqueue": {s: values for s, values in changed.items() if values}}, "dask.config"
    )


def _spelt(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of ``jobqueue``, all names with hyphens."""
    return {
        hyphens(section): {hyphens(name): value for name, value in (values or {}).items()}
        for section, values in (content.get("jobqueue") or {}).items()
    }


def _load(path: Path, where: str) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{where} cannot be read: {getattr(error, 'strerror', None) or error}; "
            "copy dask-jobqueue.yaml and fill it in"
        ) from None
    except _TwiceError as error:
        raise UsageError(f"{where}, {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UsageError(f"{where}{line} is not YAML") from None


def _nested(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Nest a mapping that has dotted names at its top (``jobqueue.slurm: ...``)."""
    nested: dict[str, Any] = {}
    for name, value in content.items():
        first, *rest = str(name).split(".")
        for part in reversed(rest):
            value = {part: value}
        # Merged only where it must be: merging silently takes - and _ for the same.
        both = first in nested
        nested[first] = dask.config.merge({0: nested[first]}, {0: value})[0] if both else value
    return nested


def _layer(content: Mapping[str, Any], source: str) -> _Layer:
    """Return the sections of ``jobqueue`` in one source, with current names of settings."""
    tree = content.get("jobqueue") or {}
    if not isinstance(tree, Mapping):
        raise UsageError(f"{source}: jobqueue is not a mapping of sections")
    sections: dict[str, Mapping[str, Any]] = {}
    for name, values in tree.items():
        section = hyphens(str(name))
        where = f"{source}: jobqueue.{section}"
        if section in sections:
            raise UsageError(f"{where} is given twice (- and _ are the same here)")
        if not isinstance(values, Mapping | None):
            advice = nearest(section, systems(), "settings belong into a section such as slurm")
            if system_of(section) in systems():
                advice = "write its settings below it, one per line, such as queue: short"
            raise UsageError(f"{where} is not a section; {advice}")
        sections[section] = renamed(values or {}, section, where)
    return _Layer(source, sections)


def _check_section_name(name: str, where: str) -> None:
    """Refuse a section at the file's top that Dask would ignore."""
    known = {*dask.config.config, *_OTHER_SECTIONS, "distributed", "jobqueue"}
    if name in known or hyphens(name) in known:
        return
    if system_of(name) in systems():
        raise UsageError(
            f"{where}: {name} stands at the top; batch systems belong under jobqueue: "
            f"(jobqueue: {{{name}: ...}})"
        )
    settings = {each for system in systems() for each in setting_names(system)}
    if hyphens(name) in settings or hyphens(name) in OTHER_NAMES:
        raise UsageError(
            f"{where}: {name} stands at the top; settings of jobs belong under jobqueue: and "
            "the batch system's name (jobqueue: {slurm: ...})"
        )
    advice = nearest(name, known, "there are jobqueue and distributed")
    raise UsageError(f"{where}: there is no section {name}; {advice}")


def _check_known(values: Any, path: str, where: str) -> None:
    """Check names and sections of Dask's own settings against its defaults."""
    default = dask.config.get(path, None)
    if path in _FREE or not isinstance(default, Mapping) or not default:
        if isinstance(default, bool | list) and not isinstance(values, type(default) | None):
            kind = "true or false" if isinstance(default, bool) else "a list"
            # Fractions of memory may be false, and what is false may be a fraction.
            if not (isinstance(default, bool) and isinstance(values, int | float | str)):
                raise UsageError(f"{where}: {path}: {values!r} is not {kind}")
        return
    if values is None:
        return
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: {path} is a section, and {values!r} is not")
    known = {hyphens(name): name for name in default}
    for name, value in values.items():
        inner = f"{path}.{known.get(hyphens(str(name)), name)}"
        if inner not in _FREE and hyphens(str(name)) not in known:
            raise UsageError(
                f"{where}: {path}: there is no setting {name}; {nearest(str(name), known)}"
            )
        _check_known(value, inner, where)


def _expanded(name: str, setting: Setting) -> Setting:
    """Expand ``~`` and variables of a path on this machine."""
    path = os.path.expanduser(os.path.expandvars(setting.value))  # noqa: PTH111 - may be a command
    missing = re.search(r"\$\{?(\w+)", path)
    if missing and name != "python":
        raise UsageError(f"{setting.source}: {name}: the variable {missing[1]} is not set here")
    return Setting(path, setting.source)


def _expanded_deep(name: str, setting: Setting) -> Setting:
    """Expand those of Dask's own settings that are paths."""
    is_path = name.startswith("distributed.comm.tls.") and name.endswith(("file", "cert", "key"))
    if isinstance(setting.value, str) and (is_path or name.endswith(("directory", "-file"))):
        return _expanded(name, setting)
    return setting


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by dotted names, so that setting one leaves its neighbours.

    A section with names that no environment variable can have stays whole.
    """
    for name, value in tree.items():
        path = f"{prefix}{name}"
        is_plain = isinstance(value, Mapping) and all(_PLAIN_NAME.fullmatch(str(n)) for n in value)
        if is_plain and value:
            yield from _flattened(value, f"{path}.")
        elif value is None and isinstance(dask.config.get(path, None), Mapping):
            continue  # a section whose lines are all comments says nothing
        else:
            yield path, value
