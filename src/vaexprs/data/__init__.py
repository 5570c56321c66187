"""Expression matrices, in memory and backed by a file, and detection of counts."""
