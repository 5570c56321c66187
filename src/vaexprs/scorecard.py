"""The metrics of `evaluate`; kept as a documented import path."""

from vaexprs.metrics.registry import METRICS, Metric

__all__ = ["METRICS", "Metric"]
