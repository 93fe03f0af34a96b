"""From databases to batches on the device."""
