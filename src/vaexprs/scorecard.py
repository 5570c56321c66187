"""Metrics of `evaluate`: public import path of `METRICS`."""

from vaexprs.metrics.registry import METRICS, Metric

__all__ = ["METRICS", "Metric"]
