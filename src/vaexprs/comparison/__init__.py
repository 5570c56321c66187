"""Preparation of cells for comparison: same genes, scale, sequencing depth, conditions and axes."""
