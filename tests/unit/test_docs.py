"""What the docs tell a person to type is there: commands, their arguments, files, links.

Whether a command does what the docs say is for the tests of that command; here it is that it would
start at all.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
CODE = [*sorted((REPO / "_modules").glob("*.py")), *sorted((REPO / "_runners").glob("[a-z]*.py"))]
# A line of a block, or what stands in backticks
_TYPED = re.compile(
    r"(?m)^(?: {4}|\$ )?((?:sudo )?(?:salt|salt-run|\./rack|make)\s.+)$|`([^`\n]+)`"
)
_SAID = "shows what differs, "  # what drift.check says itself, on a page that shows it
_LINK = re.compile(r"\]\(([^)#\s]+)")
_SALT_TARGET = r"(?:-[A-Za-z]\s+)?\S+"


def commands(page: Path) -> list[str]:
    found = [line or quoted for line, quoted in _TYPED.findall(page.read_text(encoding="utf-8"))]
    # Comments go, and what a person fills in himself stays as it is.
    typed = (re.sub(r"\s+#.*", "", each).removeprefix("sudo ").strip() for each in found)
    return [each for each in typed if not each.endswith("…") and _SAID not in each]


def all_commands(first: str) -> list[tuple[str, str]]:
    return [
        (page.name, command)
        for page in PAGES
        for command in commands(page)
        if command.startswith(f"{first} ")
    ]


@functools.cache
def functions(folder: str) -> dict[str, ast.FunctionDef]:
    """The public functions of a folder's modules, as Salt calls them: ``module.function``."""
    return {
        called(path, node): node
        for path in sorted((REPO / folder).glob("[a-z]*.py"))
        for node in public(path)
    }


def public(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def called(path: Path, function: ast.FunctionDef) -> str:
    """The function's name for Salt: what hides a word of Python's has a ``_`` too much."""
    return f"{path.stem}.{function.name.rstrip('_')}"


def misfit(function: ast.FunctionDef, words: list[str]) -> str:
    """Why these words are no arguments of the function; empty if they are. Options are Salt's."""
    words = [word for word in words if not word.startswith("-")]
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    named = [word.partition("=")[0] for word in words if re.match(r"[a-z_]+=", word)]
    bare = [word for word in words if not re.match(r"[a-z_]+=", word)]
    # What Salt itself takes
    unknown = set(named) - set(names) - {"test", "pillar", "queue", "saltenv"}
    if unknown and not given.kwarg:
        return f"has no {', '.join(sorted(unknown))}"
    if len(bare) > len(given.posonlyargs) + len(given.args) and not given.vararg:
        return f"does not take {len(bare)} arguments without a name"
    return ""


def check_call(folder: str, call: str) -> None:
    name, *words = shlex.split(call)
    if name == "state.orchestrate":  # Salt's own
        return
    assert name in functions(folder), f"{folder} has no {name}"
    problem = misfit(functions(folder)[name], words)
    assert not problem, f"{name} {problem}"


@pytest.mark.parametrize(("page", "command"), all_commands("salt-run"))
def test_every_runner_of_the_docs_is_there(page: str, command: str) -> None:
    call = re.sub(r"^salt-run\s+(-\S+\s+)*", "", command)
    check_call("_runners", call)


@pytest.mark.parametrize(("page", "command"), all_commands("salt"))
def test_every_function_of_the_docs_is_there(page: str, command: str) -> None:
    call = re.sub(rf"^salt\s+{_SALT_TARGET}\s+", "", command)
    name, *words = shlex.split(call)
    if name != "state.apply":
        check_call("_modules", call)
        return
    for sls in (word for word in words if "=" not in word):
        path = REPO / "salt" / sls.replace(".", "/")
        assert path.with_suffix(".sls").is_file() or (path / "init.sls").is_file(), sls


@pytest.mark.parametrize(("page", "command"), all_commands("./rack"))
def test_every_rack_command_of_the_docs_is_there(page: str, command: str) -> None:
    words = [word for word in command.split()[1:] if not word.startswith("-")]
    program = (REPO / "lab/cli.py").read_text(encoding="utf-8")
    assert f'"{words[0]}"' in program, words[0]


@pytest.mark.parametrize(("page", "command"), all_commands("make"))
def test_every_make_target_of_the_docs_is_there(page: str, command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"(?m)^{target}:", (REPO / "Makefile").read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_link_of_the_docs_leads_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    lost = [
        link for link in links if "://" not in link and not (page.parent / link).resolve().exists()
    ]
    assert not lost


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(REPO)))
def test_every_public_function_says_how_it_is_called(path: Path) -> None:
    """``CLI Example`` in its docstring, and in it a call that would start."""
    for function in public(path):
        said = ast.get_docstring(function) or ""
        assert "CLI Example" in said, f"{function.name}: no CLI Example"
        example = said.partition("CLI Example")[2]
        name = called(path, function)
        calls = [line.strip() for line in example.splitlines() if name in line]
        assert calls, f"{function.name}: its CLI Example does not call it"
        for call in calls:
            words = shlex.split(call[call.index(name) :], comments=True)
            problem = misfit(function, words[1:])
            assert not problem, f"{call}: {problem}"
