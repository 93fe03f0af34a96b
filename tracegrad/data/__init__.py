"""Databases of molecules and crystals, their splits, and the data modules that load them."""
