"""Tables of values and results: one test that goes through all rows and reports each that fails.

Walks over a thousand cases end at the first that fails: to report each costs as much as the case.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Test = Callable[..., None]


def table(
    names: str | Iterable[str],
    rows: Iterable[Any],
    ids: Iterable[object] | Callable[[Any], object] | None = None,
) -> Callable[[Test], Test]:
    """As ``pytest.mark.parametrize``, for rows that need nothing set up for themselves."""
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]
    lines = [row if len(columns) > 1 else (row,) for row in rows]
    if callable(ids):
        labels = [" ".join(str(ids(value)) for value in line) for line in lines]
    else:
        labels = [str(each) for each in (lines if ids is None else ids)]

    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)
        kept = [each for name, each in signature.parameters.items() if name not in columns]
        if "subtests" not in signature.parameters:
            kept.append(inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(test)
        def through_all(*, subtests: pytest.Subtests, **fixtures: Any) -> None:
            if "subtests" in signature.parameters:
                fixtures["subtests"] = subtests
            for label, line in zip(labels, lines, strict=True):
                with subtests.test(label):
                    test(**dict(zip(columns, line, strict=True)), **fixtures)

        vars(through_all)["__signature__"] = signature.replace(parameters=kept)
        return through_all

    return decorate


@contextmanager
def walking(case: str) -> Iterator[None]:
    """A case of a walk: it is named where it fails."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"at {case}")
        raise
