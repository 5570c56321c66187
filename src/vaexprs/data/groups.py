"""Column of `obs` that says which cells are real and which generated."""

from __future__ import annotations

from collections.abc import Collection

GROUP = "group"
OTHER_GROUP = "vaexprs_group"  # name where the cells have a column "group" of their own
GROUPS = ("real", "generated")


def group_key(columns: Collection[str]) -> str | None:
    """Return the column that says which cells are real and which generated; None if there is none."""
    return next((key for key in (OTHER_GROUP, GROUP) if key in columns), None)
