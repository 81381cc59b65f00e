"""Files -> Index -> Split -> pixels. No framework is imported here."""
