"""Checks of untrusted files: declared sizes, links and executable content."""
