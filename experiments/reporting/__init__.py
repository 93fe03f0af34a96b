"""What reports and cards are made of."""
