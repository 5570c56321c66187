"""What the user meets everywhere: errors, argument checks, progress bars, Ctrl-C and HTML output."""
