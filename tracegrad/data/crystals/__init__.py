"""Crystal structures with their matrices, the reader's interface, and what is checked of every database."""
