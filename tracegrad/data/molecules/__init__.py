"""Databases of molecules: what every format shares, and the formats of SchNOrb's MD17 and of nablaDFT."""
