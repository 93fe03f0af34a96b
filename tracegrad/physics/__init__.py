"""Physics outside of the networks: DFT of molecules and crystals, band structures, geometry files."""
