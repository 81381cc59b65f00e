"""One part of each kind for bhsearch."""
