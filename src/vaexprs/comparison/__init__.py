"""Generated and real cells prepared for comparison: the same genes, depth, conditions and axes."""
