"""The pages of `docs/conformance/`: every clause has a test, and every test named there exists."""

import ast
import functools
import re
from pathlib import Path

import pytest
from attrs import frozen

from omni.process import ROOT

PAGES = sorted((ROOT / "docs" / "conformance").glob("*.md"))
NAMES = [page.name for page in PAGES]
COLUMNS = ["Clause", "Test", "Remark"]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@frozen
class Row:
    """One line of a table."""

    page: str
    clause: str
    test: str
    remark: str


def lines_of(name: str) -> list[list[str]]:
    """Return the cells of all tables of a page, line by line."""
    text = (ROOT / "docs" / "conformance" / name).read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def rows_of(name: str) -> list[Row]:
    rows = [cells for cells in lines_of(name) if cells != COLUMNS and set("".join(cells)) != {"-"}]
    return [Row(name, *cells) for cells in rows]


@functools.cache
def functions_of(path: Path) -> frozenset[str]:
    """Return the names of all functions of a file, also of those in classes."""
    tree = ast.parse(path.read_text("utf-8")) if path.exists() else ast.Module([], [])
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def test_there_are_pages() -> None:
    assert "demo.md" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_the_three_columns(name: str) -> None:
    lines = lines_of(name)

    assert COLUMNS in lines
    assert [cells for cells in lines if len(cells) != len(COLUMNS)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_clause_has_a_test_and_stands_once(name: str) -> None:
    rows = rows_of(name)

    assert rows
    assert [row.clause for row in rows if not TEST.search(row.test)] == []
    assert [row for row in rows if TEST.sub("", row.test).strip(" ,")] == []  # nothing but tests
    clauses = [row.clause for row in rows]
    assert [clause for clause in clauses if not clause or clauses.count(clause) > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_test_that_a_page_names_exists(name: str) -> None:
    named = [pair for row in rows_of(name) for pair in TEST.findall(row.test)]

    assert [pair for pair in named if pair[1] not in functions_of(ROOT / pair[0])] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_remark_leads_to_where_it_is_decided(name: str) -> None:
    bare = [row.clause for row in rows_of(name) if row.remark and "](../" not in row.remark]

    assert bare == []


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_found_from_a_document(name: str) -> None:
    documents = [(ROOT / "docs" / page).read_text("utf-8") for page in ("protocol.md", "api.md")]

    assert any(f"](conformance/{name})" in text for text in documents)
