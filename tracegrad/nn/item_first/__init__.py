"""Layers on features [items, 2l + 1, channels], one tensor for each irrep: DeepH-E3."""
