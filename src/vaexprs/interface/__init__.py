"""User-facing basics: error messages, argument checks, progress bars, Ctrl-C, parallel calls, HTML."""
