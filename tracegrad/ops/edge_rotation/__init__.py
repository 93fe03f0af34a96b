"""The operator of rotation matrices from the frames of edges to the global frame."""
