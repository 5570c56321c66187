"""Similarity of generated and real cells: `evaluate`, its metrics and their real-vs-real baseline."""
