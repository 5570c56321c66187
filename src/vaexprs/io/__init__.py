"""Reading and writing cells: one reader and one writer per file format."""
