"""Geometry files: what they say is taken, or refused with the file, the line and what to write instead."""
