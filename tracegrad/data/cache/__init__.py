"""One file that is read much faster than the folders it was made of."""
