"""Training: loss, learning-rate schedules, the LightningModule, and starting from trained weights."""
