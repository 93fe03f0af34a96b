"""Files of crystals: DeepH folders, packed files, and the output of the DFT codes."""
