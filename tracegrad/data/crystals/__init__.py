"""Structures of crystals with their matrices: folders in DeepH's formats, packed files, output of OpenMX."""
