"""Loss, schedules and the LightningModule."""
