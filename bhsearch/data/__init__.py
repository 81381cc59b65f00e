"""Files -> data set -> split -> pixels. No framework is imported here."""
