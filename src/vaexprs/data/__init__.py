"""Matrices of cells x genes, in memory and backed by a file, and which of them hold counts."""
