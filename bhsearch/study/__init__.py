"""One study from start to end."""
