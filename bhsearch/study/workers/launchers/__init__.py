"""Launchers, which start worker processes, such as on this machine."""
