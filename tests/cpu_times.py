"""The processor time of calls, to compare them within one run."""

import time
from collections.abc import Callable, Mapping


def least(calls: Mapping[str, Callable[[], object]], *, rounds: int = 5) -> dict[str, float]:
    """The fewest seconds of the processor that each call took.

    Taken in turns, and the fewest: for a while a busy machine is slower.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            taken[name].append(time.process_time() - began)
    return {name: min(seconds) for name, seconds in taken.items()}
