"""The operator of activations and gates that are scaled channel by channel."""
