"""The terminal: what every command shares, the progress of a study, and its result."""
