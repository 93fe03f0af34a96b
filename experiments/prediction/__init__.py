"""Prediction of Hamiltonians and bands with a trained network."""
