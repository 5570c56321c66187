"""From cells to model input: scaling, conditions, summary statistics, variable genes and splits."""
