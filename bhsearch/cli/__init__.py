"""The commands, their options, and what they show at the terminal."""
