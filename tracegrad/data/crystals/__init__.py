"""Crystal structures with their matrices: folders in the formats of DeepH, packed files, output of OpenMX."""
