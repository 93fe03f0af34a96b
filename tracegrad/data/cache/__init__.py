"""Cache of a database of crystals: one file with all its structures, which is read much faster than folders."""
