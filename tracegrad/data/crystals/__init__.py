"""Crystal structures with their matrices, and the formats in which they are read and written."""
