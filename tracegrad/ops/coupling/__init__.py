"""Clebsch-Gordan products of component-first features with weights per item, path and channel."""
