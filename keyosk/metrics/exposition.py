"""The text of the metrics, by prometheus_client.

Imported at the first scrape: with its HTTP server and client it is a twentieth of a start.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import prometheus_client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from keyosk.metrics.families import FAMILIES, LIMITS, SUM, Family, Key


def render(numbers: Mapping[Key, float], accept: str) -> tuple[str, bytes]:
    """Return all series, as media type and text; in the format that ``accept`` prefers."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(numbers))
    write, media_type = prometheus_client.exposition.choose_encoder(accept)
    return media_type, write(registry)


class _Collector:
    """All series in the form that ``prometheus_client`` expects from a collector."""

    def __init__(self, numbers: Mapping[Key, float]) -> None:
        self._by_family: dict[str, dict[Key, float]] = {
            family.name: dict.fromkeys((key[1:] for key in family.known()), 0.0)
            if family.kind != "histogram"
            else {}
            for family in FAMILIES
        }
        for key, number in numbers.items():
            self._by_family[key[0]][key[1:]] = number

    def collect(self) -> Iterable[Any]:
        """Return the families."""
        for family in FAMILIES:
            numbers = self._by_family[family.name]
            if family.kind == "histogram":
                yield _histogram(family, numbers)
                continue
            metric = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(
                family.name, family.help, labels=family.labels
            )
            for values, number in numbers.items():
                metric.add_metric(values, number)
            yield metric


def _histogram(family: Family, numbers: Mapping[Key, float]) -> HistogramMetricFamily:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    label_values = dict.fromkeys((key[:-1] for key in numbers), None) or (
        {(): None} if not family.labels else {}
    )
    for values in label_values:
        below, buckets = 0.0, []
        for limit in LIMITS:
            below += numbers.get((*values, limit), 0.0)
            buckets.append((limit, below))
        metric.add_metric(values, buckets, numbers.get((*values, SUM), 0.0))
    return metric
