"""Read the text of `/metrics`: the one home of `prometheus_client`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from pytest_vllm.domain.metrics import Metric, Metrics


def read_metrics(text: str) -> Metrics:
    """Parse Prometheus' text format.

    Raises:
        ValueError: It is not that format.
    """
    samples, types = [], {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        samples += [
            Metric(name=sample.name, value=sample.value, labels=dict(sample.labels))
            for sample in family.samples
        ]
    return Metrics(samples=tuple(samples), types=types)
