"""Reporting checklists (TRIPOD+AI, CLAIM), filled from the records of a study as far as these hold the answers."""
