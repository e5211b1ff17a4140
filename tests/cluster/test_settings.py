"""The settings of a cluster: none is ignored, each is of its type, and the command shows them."""

from __future__ import annotations

import getpass
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml

from zml_dask.cli.main import main
from zml_dask.engine.clusters import ClusterOptions, job_name_of
from zml_dask.engine.clusters.jobqueue import CLASSES, job_script, job_settings
from zml_dask.engine.clusters.sections import decoded, setting_names
from zml_dask.engine.clusters.settings import ResolvedSection, resolve, settings_of
from zml_dask.errors import UsageError

ROOT = Path(__file__).parents[2]
Resolve = Callable[..., ResolvedSection]


def test_ctrl_c_means_the_same_once_job_queues_are_known() -> None:
    """By itself dask-jobqueue has it end the process with status 0, and fails to in a thread."""
    program = """
import signal
from concurrent.futures import ThreadPoolExecutor
from zml_dask.engine.clusters import ClusterOptions
from zml_dask.engine.clusters.settings import resolve
def settings():
    resolve("slurm", ClusterOptions())
    from zml_dask.engine.clusters import jobqueue
with ThreadPoolExecutor() as threads:
    threads.submit(settings).result()
import dask_jobqueue.runner
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
signal.signal(signal.SIGINT, signal.SIG_IGN)
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def resolve_text(tmp_path: Path) -> Resolve:
    """Resolves a section of a file with this text."""

    def resolved(text: str, section: str = "slurm") -> ResolvedSection:
        return resolve(section, options_for(tmp_path, text))

    return resolved


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Takes the text of a configuration file that Dask finds by itself."""
    path = tmp_path / "site.yaml"

    def write(text: str) -> None:
        path.write_text(text)
        monkeypatch.setattr(dask.config, "paths", [str(path)])
        dask.config.refresh(paths=dask.config.paths)

    yield write
    monkeypatch.undo()
    dask.config.refresh(paths=dask.config.paths)


def options_for(folder: Path, text: str) -> ClusterOptions:
    path = folder / "q.yaml"
    path.write_text(text)
    return ClusterOptions(config=path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as raised:
        settings_of(options_for(folder, text))
    said = str(raised.value)
    assert "\n" not in said
    assert "q.yaml" in said
    return said


def in_slurm(line: str) -> str:
    return f"jobqueue:\n  slurm:\n    {line}\n"


@pytest.mark.parametrize("system", sorted(CLASSES))
def test_the_model_has_every_setting_of_dask_jobqueue(system: str) -> None:
    """A release of dask-jobqueue with a setting more fails here."""
    assert len(setting_names(system)) > 15
    for name in setting_names(system):
        with pytest.raises(UsageError, match=rf"here\.{name}: .* is not "):
            decoded(system, {name: object()}, "here")


def test_the_example_names_settings_that_there_are() -> None:
    text = (ROOT / "dask-jobqueue.yaml").read_text()
    shown = yaml.safe_load(text)["jobqueue"]["slurm"]
    assert set(shown) <= set(setting_names("slurm"))
    resolved = resolve("slurm", ClusterOptions(config=ROOT / "dask-jobqueue.yaml"))
    assert resolved["walltime"] == "04:00:00"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("partition: short", "partition; did you mean 'queue'?"),
        ("time: 1:00:00", "time; did you mean 'walltime'?"),
        ("mem: 2GB", "mem; did you mean 'memory'?"),
        ("log-dir: logs", "log-dir; did you mean 'log-directory'?"),
        ("job-extra-directive: [--nice=7]", "did you mean 'job-extra-directives'?"),
        ("Queue: short", "Queue; did you mean 'queue'?"),
        ("scheduler-options: {prot: 8786}", "prot; did you mean 'port'?"),
        ("resource-spec: x", "there is no setting resource-spec"),  # PBS has it
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(
    tmp_path: Path, line: str, words: str
) -> None:
    assert words in refusal(tmp_path, in_slurm(line))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slurm: {queue: short}", "slurm stands at the top"),
        ("pbs: {queue: short}", "jobqueue: {pbs: ...}"),
        ("queue: short", "queue stands at the top"),
        ("partition: short", "partition stands at the top"),
        ("jobqeue: {slurm: {queue: short}}", "jobqeue; did you mean 'jobqueue'?"),
        ("jobqueue: {slrum: {queue: short}}", "slrum; did you mean 'slurm'?"),
        ("jobqueue: {queue: short}", "jobqueue.queue is not a section"),
        (
            "jobqueue: {slurm: [queue, short]}",
            "jobqueue.slurm is not a section; write its settings",
        ),
        ("jobqueue: {slurm-big: 4GiB}", "jobqueue.slurm-big is not a section; write its settings"),
        ("distributed: {wrker: {}}", "wrker; did you mean 'worker'?"),
        ("distributed: {worker: {memroy: {}}}", "memroy; did you mean 'memory'?"),
        ("distributed: {worker: 5}", "distributed.worker is a section"),
        ("distributed.comm.retrys: {}", "did you mean 'retry'?"),
    ],
)
def test_a_section_that_nobody_looks_at_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("memory: 1024", "1024 is not a size with its unit"),
        ("memory: '4096'", "'4096' is not a size with its unit"),
        ("memory: lots", "is not a size"),
        ("job-mem: 512", "512 is not a size with its unit"),
        ("walltime: 7200", "7200 is not a time as the queue writes it"),
        ("walltime: 2h", "'2h' is not a time"),
        ("cores: two", "'two' is not a whole number"),
        ("cores: 0", "0 is not a whole number of 1 or more"),
        ("cores: 1.5", "1.5 is not a whole number"),
        ("job-extra-directives: --nice=1", "'--nice=1' is not a list"),
        ('job-extra-directives: ["#SBATCH --nice=1"]', "write the options alone"),
        ("job-script-prologue: module load python", "is not a list"),
        ("worker-extra-args: {resources: 1}", "is not a list"),
        ("queue: [short]", "is not text"),
        ("death-timeout: soon", "is not a time"),
        ("scheduler-options: [host]", "is not a mapping"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, line: str, words: str) -> None:
    said = refusal(tmp_path, in_slurm(line))
    assert words in said
    assert f"jobqueue.slurm.{line.partition(':')[0]}" in said


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("walltime: 2:00:00", "walltime", "2:00:00"),
        ("walltime: 90:00", "walltime", "90:00"),
        ("walltime: 1-12:00:00", "walltime", "1-12:00:00"),
        ("account: 0123", "account", "0123"),
        ("account: 123", "account", "123"),
        ("queue: no", "queue", "no"),
        ("memory: 4 GiB", "memory", "4 GiB"),
        ("job-extra-directives: [--nice=1, 7]", "job-extra-directives", ["--nice=1", "7"]),
        ("death-timeout: 90", "death-timeout", "90"),
        ("scheduler-options: {dashboard-address: ':1'}", "scheduler-options",
         {"dashboard_address": ":1"}),
    ],
)  # fmt: skip
def test_a_value_is_what_was_written(
    resolve_text: Resolve, line: str, name: str, value: object
) -> None:
    assert resolve_text(in_slurm(line))[name] == value


def test_an_unquoted_walltime_is_hours_in_the_job_script(tmp_path: Path) -> None:
    options = options_for(tmp_path, in_slurm("walltime: 2:00:00"))
    script = job_script(resolve("slurm", options), options)
    assert "#SBATCH -t 2:00:00" in script
    assert "--lifetime 6120s --lifetime-stagger 480s" in script


OWN = """
jobqueue:
  slurm:
    memory: 1GiB
    local-directory: /one
    job-extra-directives: ["--nice=1"]
    job-script-prologue: ["export A=1"]
    queue: long
  slurm-big:
    {memory}: 2GiB
    local{_}directory: /two
    job{_}extra{_}directives: ["--nice=2"]
    job{_}script{_}prologue: ["export A=2"]
"""


@pytest.mark.parametrize("_", "-_")
def test_a_section_of_ones_own_wins_however_it_is_spelt(resolve_text: Resolve, _: str) -> None:
    for section in ("slurm-big", "slurm_big"):
        own = resolve_text(OWN.format(_=_, memory="memory"), section)
        assert own["local-directory"] == "/two"
        assert own["job-extra-directives"] == ["--nice=2"]
        assert own["job-script-prologue"] == ["export A=2"]
        assert own["memory"] == "2GiB"
        assert own["queue"] == "long"
        assert own.given["queue"].source.endswith("q.yaml, slurm")
        assert own.given["memory"].source.endswith("q.yaml, slurm-big")


def test_a_section_of_ones_own_wins_over_a_file_of_higher_rank(
    resolve_text: Resolve, site: Callable[[str], None]
) -> None:
    site(
        "jobqueue:\n  slurm:\n    queue: site\n    walltime: 1:00:00\n"
        "  slurm-big:\n    memory: 8GiB\n"
    )
    big = resolve_text(in_slurm("memory: 1GiB"), "slurm-big")
    assert (big["memory"], big["queue"], big["walltime"]) == ("8GiB", "site", "1:00:00")
    assert resolve_text(in_slurm("memory: 1GiB"))["memory"] == "1GiB"


@pytest.mark.parametrize(
    "text",
    [
        "jobqueue: {slurm: {log-directory: a, log_directory: b}}",
        "jobqueue: {slurm: {env-extra: [a], job-script-prologue: [b]}}",
        "jobqueue: {slurm-big: {}, slurm_big: {}}",
        "jobqueue: {slurm: {cores: 1, cores: 2}}",
        "jobqueue:\n  slurm: {cores: 1}\n  slurm: {memory: 1GiB}\n",
        "jobqueue: {slurm: {cores: 1}}\njobqueue: {pbs: {cores: 1}}\n",
        "distributed: {worker: {memory: {target: 0.5, target: 0.6}}}",
    ],
)
def test_what_is_said_twice_is_refused(tmp_path: Path, text: str) -> None:
    assert "is given twice" in refusal(tmp_path, text)


def test_old_names_are_taken(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    options = options_for(
        tmp_path,
        """
jobqueue:
  slurm:
    env-extra: ["export MARK=1"]
    extra: ["--resources", "foo=1"]
    job_extra: ["--nice=10"]
    header-skip: ["--cpus-per-task"]
    project: sun
""",
    )
    script = job_script(resolve("slurm", options), options)
    assert "export MARK=1\n" in script
    assert "--resources foo=1" in script
    assert "#SBATCH --nice=10" in script
    assert "#SBATCH -A sun" in script
    assert "--cpus-per-task" not in script
    assert not [warning for warning in recwarn if "renamed" in str(warning.message)]


def test_old_names_in_a_site_file_and_new_ones_in_mine(
    resolve_text: Resolve, site: Callable[[str], None]
) -> None:
    site(
        "jobqueue:\n  slurm:\n    env-extra: ['module load a']\n    extra: []\n"
        "    worker-extra-args: ['--resources', 'a=1']\n"
    )
    mine = resolve_text(in_slurm("job-script-prologue: ['module load b']"))
    assert mine["job-script-prologue"] == ["module load b"]
    assert mine["worker-extra-args"] == ["--resources", "a=1"]
    assert resolve_text(in_slurm("queue: a"))["job-script-prologue"] == ["module load a"]


def test_a_wrong_setting_of_a_site_file_names_that_file(
    resolve_text: Resolve, site: Callable[[str], None]
) -> None:
    site("jobqueue: {slurm: {partition: a}}")
    with pytest.raises(UsageError, match=r"site\.yaml.*did you mean 'queue'"):
        resolve_text(in_slurm("queue: a"))


def test_variables_and_the_program_are_sources_too(
    resolve_text: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__JOB_EXTRA_DIRECTIVES", "['--nice=3']")
    with dask.config.set({"jobqueue.slurm.queue": "mine", "jobqueue.slurm-own.memory": "3GiB"}):
        own = resolve_text(in_slurm("cores: 2"), "slurm-own")
    assert (own["queue"], own["memory"], own["cores"]) == ("mine", "3GiB", 2)
    assert own["job-extra-directives"] == ["--nice=3"]
    assert own.given["queue"].source.startswith("dask.config")
    assert own.given["job-extra-directives"].source.startswith("environment")
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__PARTITION", "short")
    with pytest.raises(UsageError, match=r"environment.*did you mean 'queue'"):
        resolve_text(in_slurm("cores: 2"))


def test_home_and_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SCRATCH", str(tmp_path / "scratch"))
    options = options_for(
        tmp_path,
        """
jobqueue:
  slurm:
    log-directory: $MY_SCRATCH/logs
    shared-temp-directory: ~/shared
    python: ${MY_SCRATCH}/bin/python
    local-directory: $LOCAL/me
distributed:
  comm: {tls: {ca-file: ~/ca.pem, worker: {cert: $MY_SCRATCH/w.pem}}}
temporary-directory: $MY_SCRATCH/tmp
""",
    )
    section = resolve("slurm", options)
    assert section["log-directory"] == f"{tmp_path}/scratch/logs"
    assert section["shared-temp-directory"] == str(Path.home() / "shared")
    assert section["python"] == f"{tmp_path}/scratch/bin/python"
    # The node's own disk: its own shell knows the variable.
    assert job_settings(section, options)["local-directory"] == "${LOCAL:?}/me"
    settings = settings_of(options)
    assert settings["distributed.comm.tls.ca-file"] == str(Path.home() / "ca.pem")
    assert settings["distributed.comm.tls.worker.cert"] == f"{tmp_path}/scratch/w.pem"
    assert settings["temporary-directory"] == f"{tmp_path}/scratch/tmp"


def test_a_variable_that_is_not_set_is_named(resolve_text: Resolve) -> None:
    for name in ("log-directory", "shared-temp-directory"):
        with pytest.raises(UsageError, match=rf"{name}: the variable NOT_THERE"):
            resolve_text(in_slurm(f"{name}: $NOT_THERE/logs"))


def test_settings_of_distributed_reach_the_job(tmp_path: Path) -> None:
    options = options_for(
        tmp_path,
        """
distributed:
  worker: {memory: {terminate: 0.99}, resources: {gpu: 1}}
  nanny: {environ: {MALLOC_TRIM_THRESHOLD_: 0}}
  scheduler: {allowed-failures: 5}
  admin: {log_length: 7}
""",
    )
    lines = [
        line.removeprefix("export ")
        for line in job_settings(resolve("slurm", options), options)["job-script-prologue"]
    ]
    variables = dict(line.split("=", 1) for line in lines)
    # As a worker's own Dask reads them.
    read: dict[str, Any] = dask.config.collect_env(
        {name: value.strip("'\"").replace("'\"'\"'", "'") for name, value in variables.items()}
    )
    distributed = read["distributed"]
    assert distributed["worker"]["memory"]["terminate"] == 0.99
    assert distributed["worker"]["resources"] == {"gpu": 1}
    assert distributed["nanny"]["environ"] == {"MALLOC_TRIM_THRESHOLD_": 0}
    assert distributed["admin"]["log_length"] == 7
    assert "scheduler" not in distributed
    assert settings_of(options)["distributed.scheduler.allowed-failures"] == 5


@pytest.mark.parametrize(("memory", "processes"), [("1MiB", 1), ("150MB", 1), ("1GiB", 8)])
def test_memory_in_which_python_does_not_start_is_refused(
    tmp_path: Path, memory: str, processes: int
) -> None:
    text = in_slurm(f"memory: {memory}") + f"    processes: {processes}\n    cores: 8\n"
    options = options_for(tmp_path, text)
    with pytest.raises(UsageError, match="Python with its libraries takes"):
        job_settings(resolve("slurm", options), options)


def test_more_processes_than_cores_are_refused(tmp_path: Path) -> None:
    options = options_for(tmp_path, in_slurm("cores: 2") + "    processes: 3\n    memory: 4GiB\n")
    with pytest.raises(UsageError, match=r"jobqueue\.slurm\.processes: 3 .* 2 cores"):
        job_settings(resolve("slurm", options), options)


@pytest.mark.parametrize("system", sorted(CLASSES))
def test_every_system_has_a_job_script(tmp_path: Path, system: str) -> None:
    disk = "disk: 1GiB" if system == "htcondor" else "cores: 1"
    options = options_for(tmp_path, f"jobqueue: {{{system}: {{interface: lo, {disk}}}}}")
    script = job_script(resolve(system, options), options)
    assert "distributed.cli.dask_worker" in script
    assert "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in script


def test_htcondor_needs_a_disk(tmp_path: Path) -> None:
    options = options_for(tmp_path, "jobqueue: {htcondor: {cores: 1}}")
    with pytest.raises(UsageError, match=r"jobqueue\.htcondor\.disk is not given.*10GiB"):
        job_settings(resolve("htcondor", options), options)


def test_lsf_takes_no_seconds(tmp_path: Path) -> None:
    options = options_for(tmp_path, "jobqueue: {lsf: {walltime: 04:00:00}}")
    with pytest.raises(UsageError, match=r"jobqueue\.lsf\.walltime: '04:00:00' is not .*04:00"):
        resolve("lsf", options)
    options = options_for(tmp_path, "jobqueue: {lsf: {walltime: 04:00}}")
    assert "#BSUB -W 04:00\n" in job_script(resolve("lsf", options), options)


def test_jobs_are_named_after_dataset_and_user() -> None:
    user = getpass.getuser()
    assert job_name_of("/data/zenodo-ml/") == f"zml-zenodo-ml-{user}"
    assert job_name_of("s3://bucket/a b;c") == f"zml-a_b_c-{user}"
    assert job_name_of(".") == f"zml-dataset-{user}"


def test_a_name_of_the_section_stays(tmp_path: Path) -> None:
    options = ClusterOptions(
        config=options_for(tmp_path, in_slurm("name: mine")).config, job_name="zml-a-b"
    )
    assert job_settings(resolve("slurm", options), options)["name"] == "mine"
    options = ClusterOptions(job_name="zml-a-b")
    assert job_settings(resolve("slurm", options), options)["name"] == "zml-a-b"


def test_the_command_shows_values_sources_and_the_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("q.yaml").write_text(
        "jobqueue:\n  slurm: {queue: long, log-directory: a/logs}\n  slurm-big: {memory: 9GiB}\n"
        "distributed: {comm: {retry: {count: 3}}}\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["cluster-config", "q.yaml", "--cluster", "slurm-big", "--dataset", "here/zenodo"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.partition(" ")[2] for line in said.splitlines() if line.split()}
    assert rows["memory"].split() == ["9GiB", "q.yaml,", "slurm-big"]
    assert rows["queue"].split() == ["long", "q.yaml,", "slurm"]
    assert rows["cores"].split() == ["1", "zml-dask"]
    assert rows["distributed.comm.retry.count"].split() == ["3", "q.yaml"]
    assert f"#SBATCH -J zml-zenodo-{getpass.getuser()}" in said
    assert "#SBATCH --mem=9G" in said
    assert not Path("a").exists()


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "q.yaml"
    path.write_text(in_slurm("partition: short"))
    with pytest.raises(SystemExit) as ended:
        main(["cluster-config", str(path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
