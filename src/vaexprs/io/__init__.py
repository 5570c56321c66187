"""Read and write expression data, with one reader and one writer per file format."""
