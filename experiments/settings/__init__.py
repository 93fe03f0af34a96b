"""The settings of a command: composed by Hydra, checked, and the errors that name what is wrong."""
