"""Folders with a sparse matrix and lists of names (CellRanger, STARsolo, kb, alevin), 10x .h5 files."""
