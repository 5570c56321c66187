"""Studies that have not been run: groups of new donors, effects with known truth, and power."""
