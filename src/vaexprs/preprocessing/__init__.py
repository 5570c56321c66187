"""Prepare cells as model input: scaling, conditions, summary statistics, variable genes and splits."""
