"""The operator of linear maps between the channels of features of several irreps."""
