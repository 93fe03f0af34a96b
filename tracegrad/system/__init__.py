"""Operating system: complete files, locks, worker processes, signals, cores and progress display."""
