"""Errors of operators."""


class OperatorArgumentError(ValueError):
    """An argument with which an operator would access memory outside of its tensors."""


class OperatorIndexError(OperatorArgumentError, IndexError):
    """An entry of an index that is out of range."""
