"""Errors and warnings that octavo raises beside Python's own."""


class ModelError(ValueError):
    """A model file, or a graph, that cannot be read as what it claims to be."""


class UnsupportedOpError(ModelError):
    """An operator that has no kernel here, where one was asked for."""


class FallbackWarning(UserWarning):
    """Something runs, exactly, but slowly: an operator without a kernel, or a CPU without one."""
