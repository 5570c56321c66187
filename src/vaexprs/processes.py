"""Fit one model over several processes; kept as a documented import path."""

from vaexprs.training.multiprocess import join, leave

__all__ = ["join", "leave"]
