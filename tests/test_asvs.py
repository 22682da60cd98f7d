"""docs/reference/asvs.md: every requirement that it must have, once, with tests that exist."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import keyosk
from keyosk.model import SIGNING_ALGORITHMS

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = (ROOT / "docs" / "reference" / "asvs.md").read_text()
TABLES, LEFT_OUT = PAGE.split("\n## What does not apply\n")
#: ASVS 5.0.0: the level of each requirement.
LEVELS: Final = {
    number: int(level)
    for number, level in map(
        str.split, (ROOT / "tests" / "vectors" / "asvs_levels.txt").read_text().splitlines()
    )
}
STATES: Final = ("met", "in part", "not met", "operator")


class Row(NamedTuple):
    """A requirement in the table; `tests` as they are named there."""

    number: str
    level: str
    asked: str
    state: str
    how: str
    tests: list[str]


def rows() -> list[Row]:
    table_rows = []
    for line in re.findall(r"^\| (V\d+\.\d+\.\d+ \|.*) \|$", TABLES, re.MULTILINE):
        cells = [cell.strip() for cell in line.split(" | ")]
        assert len(cells) == 6, line
        number, level, asked, state, how, tests = cells
        table_rows.append(
            Row(number, level, asked, state, how, re.findall(r"`(tests/[^`]+)`", tests))
        )
    return table_rows


def left_out() -> list[str]:
    """The chapters (V17), sections (V3.3) and requirements that are said not to apply."""
    cells = re.findall(r"^\| (V[V\d., ]+) \|", LEFT_OUT, re.MULTILINE)
    return [number for cell in cells for number in cell.split(", ")]


def answers_for(number: str) -> list[str]:
    """The places of the page that have an answer to a requirement."""
    chapter, section = number.partition(".")[0], number.rpartition(".")[0]
    named = [row.number for row in rows() if row.number == number]
    return named + [each for each in left_out() if each in (number, section, chapter)]


@cache
def functions(path: Path) -> frozenset[str]:
    nodes = ast.parse(path.read_text()).body
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def test_the_standard_is_there_whole() -> None:
    assert Counter(LEVELS.values()) == {1: 70, 2: 183, 3: 92}
    assert len(rows()) > 150


def test_every_number_is_one_of_the_standard_with_its_level() -> None:
    for row in rows():
        assert row.level == str(LEVELS[row.number]), row.number
    for number in left_out():
        assert any(each == number or each.startswith(f"{number}.") for each in LEVELS), number


def test_no_requirement_is_answered_twice() -> None:
    assert [number for number in LEVELS if len(answers_for(number)) > 1] == []


def test_every_requirement_of_levels_1_and_2_is_answered() -> None:
    wanted = [number for number, level in LEVELS.items() if level < 3]
    assert [number for number in wanted if not answers_for(number)] == []


def test_every_answer_says_how_it_is_met_or_that_it_is_not() -> None:
    for row in rows():
        assert row.state in STATES, row
        assert row.how, row
    numbers = [row.number for row in rows()]
    assert numbers == sorted(numbers, key=lambda each: [*map(int, each[1:].split("."))])


def test_the_figures_above_the_table_are_those_of_the_table() -> None:
    stated = re.findall(r"^\| level (\d) \| (.+) \|$", PAGE, re.MULTILINE)
    for level, figures in stated:
        counted = Counter(row.state for row in rows() if row.level == level)
        missing = [each for each, its in LEVELS.items() if str(its) == level]
        left = sum(not any(row.number == each for row in rows()) for each in missing)
        expected = [*(counted[state] for state in STATES), left]
        assert [int(each) for each in figures.split(" | ")] == expected, level
    assert len(stated) == 3


def test_every_test_that_is_named_exists() -> None:
    for row in rows():
        for named in row.tests:
            file, _, function = named.partition("::")
            assert (ROOT / file).is_file(), (row.number, named)
            assert function.startswith("test_"), (row.number, named)
            assert function in functions(ROOT / file), (row.number, named)


def test_what_is_met_is_shown_by_a_test_or_says_why_not() -> None:
    for row in rows():
        if row.state == "met" and not row.tests:
            assert "by design" in row.how or "by review" in row.how, row


# --- What the table says of the whole program -----------------------------------------------------


def calls_and_imports() -> Iterator[tuple[str, str]]:
    for path in Path(keyosk.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    yield from ((path.name, alias.name) for alias in names)
                case ast.ImportFrom(module=str(module), names=names):
                    yield from ((path.name, f"{module}.{alias.name}") for alias in names)
                case ast.Call(func=ast.Name(id=name)):
                    yield path.name, name
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                    yield path.name, f"{owner}.{name}"


def test_keyosk_starts_no_program_and_runs_no_text() -> None:
    forbidden = re.compile(
        r"(subprocess|pickle|marshal|shelve|dill|jinja2|xml|lxml)(\.|$)"
        r"|(eval|exec|compile|__import__|render_template_string)$"
        r"|os\.(system|popen|exec\w+|spawn\w+)$|yaml\.(load|unsafe_load|full_load)$"
    )
    names = set(calls_and_imports())
    assert len(names) > 1000
    # It writes JUnit's form of a report, and parses nothing.
    writes = ("service_check.py", "xml.etree.ElementTree")
    # Templates are files of the package: what fills their gaps is escaped, and no text becomes one.
    fills = ("application.py", "jinja2.StrictUndefined")
    assert {each for each in names if forbidden.match(each[1])} == {writes, fills}
    used = {name for file, name in names if file == writes[0] and name.startswith("ET.")}
    assert used <= {"ET.Element", "ET.SubElement", "ET.indent", "ET.tostring"}


def test_every_algorithm_is_in_the_list_of_cryptography() -> None:
    page = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    part = page[page.index("## Cryptography") :]
    for algorithm in SIGNING_ALGORITHMS:
        assert algorithm in part, algorithm
