"""How close generated cells are to real ones: `evaluate`, its metrics and their real-vs-real baseline."""
