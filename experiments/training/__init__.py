"""A run: built, trained, resumed, logged, tried out."""
