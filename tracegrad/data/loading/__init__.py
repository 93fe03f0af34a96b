"""From a database to batches: data sets, samplers, loaders and LightningDataModules."""
