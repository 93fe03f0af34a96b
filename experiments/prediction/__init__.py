"""Predictions of molecules and crystals by a trained network."""
