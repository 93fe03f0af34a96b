"""Layers on features [2l + 1, items, channels]: QHNet.

All irreps of a feature have the same number of channels and lie behind one another along the first axis.
"""
