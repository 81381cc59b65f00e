"""How a study goes on: opened, agreed with what it was, its dead trials recovered, its predictions recalled."""
