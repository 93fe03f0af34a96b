"""Settings of the commands: read from the command line, composed by Hydra and checked."""
