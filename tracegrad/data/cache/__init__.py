"""Cache of a database of crystals: a folder with its structures, which is read much faster than the database."""
