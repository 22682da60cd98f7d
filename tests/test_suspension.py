"""Functions that are suspended in the middle of a call, and resumed later."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from greenlet import getcurrent

from keyosk import suspension
from keyosk.suspension import Suspendable

NAME: ContextVar[str] = ContextVar("name", default="nobody")


def test_each_goes_on_where_it_was_with_what_it_is_given_and_its_own_context() -> None:
    suspendable = Suspendable()
    resumed: list[tuple[str, str, Any]] = []
    waiting: dict[str, Callable[[Any], object]] = {}

    def act(name: str) -> None:
        NAME.set(name)
        for _ in range(2):
            value = suspension.suspend(lambda resume: waiting.update({name: resume}))
            resumed.append((name, NAME.get(), value))

    for name in ("a", "b"):
        suspendable.run(lambda name=name: act(name))  # type: ignore[misc]
    assert resumed == []
    for name, value_given in (("b", 1), ("a", 2), ("a", 3), ("b", 4)):
        waiting[name](value_given)
    assert resumed == [("b", "b", 1), ("a", "a", 2), ("a", "a", 3), ("b", "b", 4)]
    assert NAME.get() == "nobody"


def test_a_stack_is_used_again_once_its_function_has_ended() -> None:
    suspendable = Suspendable()
    used: list[Any] = []
    resume: list[Callable[[Any], object]] = []

    def wait() -> None:
        used.append(getcurrent())
        suspension.suspend(resume.append)

    suspendable.run(wait)
    suspendable.run(wait)
    assert used[0] is not used[1]
    resume[0](None)
    suspendable.run(wait)
    assert used[2] is used[0]
    for resume_one in resume[1:]:
        resume_one(None)


def test_an_error_reaches_who_runs_or_resumes_it() -> None:
    suspendable = Suspendable()
    resume: list[Callable[[Any], object]] = []

    def fail() -> None:
        suspension.suspend(resume.append)
        raise RuntimeError("after it was resumed")

    suspendable.run(fail)
    with pytest.raises(RuntimeError, match="after it was resumed"):
        resume[0](None)
    result: list[int] = []
    suspendable.run(lambda: result.append(1))
    assert result == [1]


def test_only_what_is_run_so_can_be_suspended() -> None:
    assert not suspension.is_possible()
    answers: list[bool] = []
    Suspendable().run(lambda: answers.append(suspension.is_possible()))
    assert answers == [True]
