"""Which cases of a sweep are tested at every change, and which in the slower layers (CONTRIBUTING.md)."""

import numpy as np
import pytest


def spread(values, keep, mark=pytest.mark.slow):
    """Return parameters of which `keep`, evenly spread from the first to the last, are unmarked."""
    values = list(values)
    kept = set(np.linspace(0, len(values) - 1, keep).round().astype(int).tolist())
    return [
        value if i in kept else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=mark)
        for i, value in enumerate(values)
    ]
