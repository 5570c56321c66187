"""Checks of files that may come from strangers: declared sizes, links and executable content."""
