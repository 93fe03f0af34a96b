"""Parts of `tracegrad inspect`."""
