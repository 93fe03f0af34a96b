"""Contents of reports, model cards and studies."""
