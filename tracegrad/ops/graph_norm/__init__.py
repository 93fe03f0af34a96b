"""The operator of the layer norm over all items of a graph."""
