"""What every command has in common: help, mistakes in the call, and what nobody foresaw."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from zml_dask.cli import main as entry
from zml_dask.cli.main import COMMANDS, cli, main
from zml_dask.errors import ZmlError

Run = Callable[..., tuple[int, str, str]]


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err.startswith("Usage: zml-dask [OPTIONS] COMMAND")


def test_every_command_is_listed_with_a_whole_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("--help")
    listed = dict(line.strip().split(None, 1) for line in out.split("Commands:\n")[1].splitlines())
    assert list(listed) == list(COMMANDS)
    assert [name for name, said in listed.items() if not said.endswith(".") or "..." in said] == []
    with click.Context(cli) as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name


def test_standard_output_may_be_closed_or_lack_characters() -> None:
    command = [sys.executable, "-m", "zml_dask"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "", *command, "--version"], check=False)
    assert done.returncode == 0
    script = (
        "import zml_dask.cli.main as entry\n"
        "entry.cli.main = lambda **_: print('caf\\xe9 \\u4e2d')\nentry.main()"
    )
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done_ascii = subprocess.run(
        [sys.executable, "-c", script], env=ascii_only, capture_output=True, check=True
    )
    assert done_ascii.stdout == b"caf\\xe9 \\u4e2d\n"


def test_standard_error_may_be_closed() -> None:
    script = (
        "import os, sys, zml_dask.cli.main as entry\n"
        "new = lambda: os.open(os.devnull, os.O_RDONLY)\n"
        "entry.cli.main = lambda **_: print(sys.stderr.isatty(), new() > 2)\nentry.main()"
    )
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "", sys.executable, "-c", script]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"False True\n"


def test_the_help_imports_no_command() -> None:
    script = (
        "import sys\nfrom zml_dask.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'dask', 'numba', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_keeps_to_eighty_columns(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(name, "--help")
    assert status == 0
    assert "\b" not in out
    assert r"\b" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bild"], "there is no command 'bild'; did you mean 'build'? (see zml-dask --help)"),
        (["build"], "Missing argument 'CATALOGUE' (see zml-dask build --help)"),
        (["status", "a\x1b[2Jb", "c"], r"unexpected extra argument (c) (see zml-dask status"),
    ],
)
def test_a_wrong_call_is_told_where_the_right_one_is(
    run: Run, words: list[str], message: str
) -> None:
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("a\n"), r"zml-dask: unexpected KeyError: 'a\n'; "),
        (OSError(28, "No space left on device", "/full/a"), "zml-dask: /full/a: No space left"),
        (RuntimeError(), "zml-dask: unexpected RuntimeError: ; "),
    ],
)
def test_what_nobody_foresaw_is_one_line_and_a_traceback_when_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    @click.command("status")
    def broken() -> None:
        raise error

    monkeypatch.setattr(entry._LazyGroup, "get_command", lambda *_: broken)
    status, out, err = run("status")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(message)
    assert "--debug" in err
    with pytest.raises(type(error)):
        main(["status", "--debug"])


def test_what_is_foreseen_is_one_line_and_a_traceback_when_asked_for(
    run: Run, tmp_path: Path
) -> None:
    status, out, err = run("verify", tmp_path / "a\x1b[31mb")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "a\\x1b[31mb" in err
    for words in (["--debug", "verify", "none"], ["verify", "none", "--debug"]):
        with pytest.raises(ZmlError):
            main(words)


def test_a_dataset_is_not_exported_into_itself(run: Run, tmp_path: Path) -> None:
    from zml_dask.store.commit import commit
    from zml_dask.store.storage import Storage

    commit(Storage.open(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run("export", tmp_path, f"{tmp_path}/", "--format", "png")
    assert status == 2
    assert "is the dataset itself" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_says_which_port_is_taken(run: Run, tmp_path: Path) -> None:
    import socket

    from zml_dask.store.commit import commit
    from zml_dask.store.storage import Storage

    commit(Storage.open(tmp_path / "ds"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = run("view", tmp_path / "ds", "--no-browser", "--port", str(port))
    assert status == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in err


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "zml_dask", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("zml-dask, version ")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("from zml_dask.cli.main import main; main(['build', 'catalogue.jsonl', 'ds'])", 1),
        (
            "import zml_dask\ntry: zml_dask.build\nexcept ImportError as e: sys.exit(e.msg)",
            1,
        ),
        ("import zml_dask; print(zml_dask.__version__)", 0),
    ],
    ids=["the command", "a function", "the version"],
)
def test_python_for_windows_is_answered_in_one_line(code: str, status: int) -> None:
    """It is Python without these modules; nothing of ours may need them to say so."""
    missing = "import sys; sys.modules.update(dict.fromkeys(('fcntl', 'pwd', 'resource')))\n"
    ran = subprocess.run([sys.executable, "-c", missing + code], capture_output=True, text=True)
    assert ran.returncode == status, ran.stderr
    if status:
        assert ran.stderr.count("\n") == 1
        assert "Windows Subsystem for Linux" in ran.stderr


def test_a_reader_that_has_enough_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for words in (["build", "--help"], ["cluster-config"]):  # the second prints by rich
        command = [sys.executable, "-m", "zml_dask", *words]
        ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
        assert (ran.returncode, ran.stderr) == (0, b"")
    os.close(writing)


def test_datasets_and_options_are_completed(tmp_path: Path) -> None:
    def completed(words: str) -> list[str]:
        ran = subprocess.run(
            [sys.executable, "-m", "zml_dask"],
            env={
                **os.environ,
                "COMP_WORDS": words,
                "COMP_CWORD": str(words.count(" ")),
                "_ZML_DASK_COMPLETE": "bash_complete",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.split()

    assert completed("zml-dask status ") == ["file,"]
    assert completed("zml-dask verify --de") == ["plain,--deep"]
    assert completed("zml-dask qu") == ["plain,query"]


def test_a_cluster_that_is_not_known_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.jsonl"
    catalogue.write_text('{"id": 1, "metadata": {"title": "x"}, "files": []}\n')
    status, _, err = run("build", catalogue, tmp_path / "ds", "--cluster", "slrum")
    assert status == 2
    assert "did you mean 'slurm'" in err
    assert not (tmp_path / "ds").exists()
