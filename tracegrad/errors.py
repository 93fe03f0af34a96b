"""Exceptions a user can cause. Each message says what was wrong, where, and what to do."""


class TraceGradError(Exception):
    """Base of all errors that TraceGrad raises on purpose."""


class DataError(TraceGradError):
    """A database, geometry or split is missing, damaged or not what was asked for."""


class CollinearError(DataError):
    """A collinear spin-polarised calculation of which neither one spin nor both were asked for."""


class BasisError(DataError):
    """An element or shell that the orbital basis does not have."""


class ConfigError(TraceGradError):
    """A setting that does not exist or does not fit the others."""


class CheckpointError(TraceGradError):
    """A checkpoint that is missing, damaged or of another architecture."""


class TrainingError(TraceGradError):
    """A training run that cannot go on, such as one whose loss is no longer finite."""


class InUseError(TraceGradError):
    """A directory in which another process works."""


class GenerationError(TraceGradError):
    """A computation of reference data that failed, such as an SCF that did not converge."""
