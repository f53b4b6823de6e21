"""The documentation keeps its word: code blocks run, commands parse, links lead to files, every name is listed."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

import probinfer
from probinfer import cli
from probinfer.posterior import diagnose, hamiltonian
from probinfer.predict import families

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """First line number (from 0) and content of every fenced code block in the language."""
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        found.append((text[: match.start(1)].count("\n"), match.group(1)))
    return found


def run_page(text: str, name: str) -> None:
    """Run a page's Python blocks one after the other, as one program; a failure's line number is the page's."""
    namespace = {"__name__": "page"}
    for line, code in blocks(text, "python"):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * line + code, name, "exec"), namespace)


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.pages
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text("utf-8"), "python")], ids=identify)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text("utf-8"), str(page))


def test_a_broken_block_is_caught():
    page = "text\n\n```python\nx = 1\n```\n\nmore\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run_page(page, "page.md")
    assert failure.traceback[-1].lineno + 1 == 10


def command_lines() -> list[tuple[str, str]]:
    """Every `probinfer …` command that the pages show, with its page; usage lines are left out."""
    return [
        (identify(page), line.partition("#")[0].rpartition("&& ")[2].removeprefix("uv run ").strip())
        for page in PAGES
        for _, code in blocks(page.read_text("utf-8"), "sh")
        for line in code.splitlines()
        if re.search(r"(^|uv run )probinfer ", line) and "[" not in line and "PATH" not in line
    ]


@pytest.mark.parametrize(("page", "command"), command_lines())
def test_commands_parse(page, command):
    program, *arguments = shlex.split(command)
    assert program == "probinfer"
    cli.parser().parse_args(arguments)


def test_every_option_of_the_command_line_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    shown_commands = [code.replace("[", " ").replace("]", " ").split() for _, code in blocks(text, "sh")]
    usage = {words[1]: words for words in reversed(shown_commands)}  # the first is the usage line, examples follow
    commands = cli.parser()._subparsers._group_actions[0].choices
    assert set(usage) == set(commands)
    for name, command in commands.items():
        for action in command._actions:
            shown = action.option_strings[-1] if action.option_strings else action.metavar
            assert shown == "--help" or shown in usage[name], f"docs/cli.md does not show {shown} of probinfer {name}"


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8"))
    missing = [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()]
    assert missing == []


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: probinfer\.(\w+)$", text, flags=re.MULTILINE))
    assert documented == set(probinfer.__all__)


def test_the_readme_has_the_two_commands_and_ci_runs_the_second():
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = [code.strip() for _, code in blocks(readme, "sh")]
    assert shown[:2] == ["pip install uv && uv run probinfer demo", "uv run pytest"]
    assert re.search(r"^stage \w+ uv run pytest$", (ROOT / ".ci" / "run").read_text("utf-8"), flags=re.MULTILINE)


def test_the_verdicts_thresholds_are_those_of_the_code():
    text = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    rows = {
        row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|"))
    }
    for name, doubtful, bad in (
        ("largest R-hat", diagnose.R_HAT_DOUBTFUL, diagnose.R_HAT_BAD),
        (
            "smallest effective sample size, bulk and tail, a chain",
            diagnose.ESS_PER_CHAIN_DOUBTFUL,
            diagnose.ESS_PER_CHAIN_BAD,
        ),
        ("share of divergent draws", hamiltonian.DIVERGENT_DOUBTFUL, hamiltonian.DIVERGENT_BAD),
        ("share of trees that ended at the depth limit", hamiltonian.SATURATED_DOUBTFUL, None),
        ("energy fraction of missing information (BFMI)", hamiltonian.BFMI_DOUBTFUL, None),
    ):
        assert rows[name][0].split()[-1] == str(doubtful), name
        assert bad is None or rows[name][1].split()[-1] == str(bad), name


def test_the_exact_families_are_those_of_the_code():
    text = " ".join((ROOT / "docs" / "concepts.md").read_text("utf-8").split())
    assert f"one of these distributions: {', '.join(families.FAMILIES)}. Their formulas" in text
