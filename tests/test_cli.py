"""The command line: what it prints, the status it leaves, and that our errors are one line without a traceback."""

import subprocess
import sys

import pytest

from probinfer import cli, errors


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "probinfer 0.1.0\n"


@pytest.mark.parametrize("command", [[], ["demo"], ["inspect"], ["score"]])
def test_help_says_what_each_command_is_for(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: probinfer")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["guess"], "invalid choice: 'guess'"),
        (["inspect"], "the following arguments are required: PATH"),
        (["score", "a", "b"], "the following arguments are required: OUTPUT"),
        (["score", "a", "b", "c", "--level", "90"], "'90' is not a probability between 0 and 1, such as 0.9"),
        (["score", "a", "b", "c", "--level", "nan"], "'nan' is not a probability between 0 and 1, such as 0.9"),
        (["score", "a", "b", "c", "--level", "much"], "'much' is not a probability between 0 and 1, such as 0.9"),
        (["score", "a", "b", "c", "--quantiles", "0.5,5"], "'5' is not a probability between 0 and 1, such as 0.9"),
        (["score", "a", "b", "c", "--chunk-rows", "0"], "'0' is not a whole number of at least 1"),
        (["score", "a", "b", "c", "--chunk-rows", "1.5"], "'1.5' is not a whole number of at least 1"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def ours() -> list[type[errors.ProbinferError]]:
    return [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ProbinferError)
    ]


def failing(monkeypatch, error: BaseException) -> int:
    def command(options):
        raise error

    monkeypatch.setattr(cli, "_demo", command)
    return cli.main(["demo"])


@pytest.mark.parametrize("kind", ours())
def test_an_error_of_ours_is_one_line_and_status_2(kind, monkeypatch, capsys):
    assert failing(monkeypatch, kind("this came,\n  that was wanted")) == 2
    assert capsys.readouterr() == ("", "probinfer: this came, that was wanted\n")


def test_a_refusal_of_the_system_is_one_line_and_status_1(monkeypatch, capsys):
    assert failing(monkeypatch, PermissionError(13, "Permission denied", "there")) == 1
    assert capsys.readouterr() == ("", "probinfer: there: Permission denied.\n")


def test_a_pattern_that_nothing_expanded_is_told_as_one(monkeypatch, capsys):
    assert failing(monkeypatch, FileNotFoundError(2, "No such file or directory", "rows/*.csv")) == 1
    text = "probinfer: rows/*.csv: No such file or directory. The name is taken as it stands: give a folder to have "
    assert capsys.readouterr() == ("", text + "all of its files read.\n")


def test_an_interrupt_is_status_130(monkeypatch, capsys):
    assert failing(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "probinfer: interrupted\n")


def test_a_mistake_of_our_own_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        failing(monkeypatch, ZeroDivisionError())


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "probinfer", *arguments], capture_output=True, text=True, timeout=120, **options
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["inspect", "nowhere"], "nowhere", marks=pytest.mark.long),
        (["score", "nowhere", "rows.csv", "predictions.csv"], "nowhere"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(arguments, text, tmp_path):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("probinfer: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_traceback(tmp_path):
    code = (
        "import sys\nfrom probinfer import cli\n"
        "def much(options):\n    for _ in range(10**5): print('line')\n"
        "cli._demo = much\nsys.exit(cli.main(['demo']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


LOADED = """
import sys
import probinfer
before = set(sys.modules)
from probinfer import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}), sep="\\n", file=sys.stderr)
"""


def test_the_command_line_itself_loads_nothing_that_importing_probinfer_does_not():
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60)
    added = set(result.stderr.split())
    assert "probinfer" in added
    assert added - {"probinfer"} <= set(sys.stdlib_module_names)
