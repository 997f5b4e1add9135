"""What the operators share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo.array.interop import digest
from octavo.array.qtensor import QTensor

Weights = QTensor | NDArray[np.float32]
Parts = tuple[Weights, NDArray[Any] | None]  # weights and bias in their plain form


class Operator(ABC):
    """Frozen, picklable as plain arrays, packed for the CPU it finds at the first call."""

    __slots__ = ("__weakref__", "_held")

    # The prepared operator; after unpickling, until first use, the parts it will be prepared of.
    # One attribute, replaced as a whole: threads need no lock.
    _held: Any
    # Attributes besides it, which say everything but the weights.
    _SETTINGS: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"use {name}.from_float(w, ...) or {name}.from_quantized(w_q, ...)")

    @classmethod
    def _check_quantized(cls, w_q: QTensor) -> None:
        if not isinstance(w_q, QTensor):
            raise TypeError(
                f"w_q is {type(w_q).__name__}, expected octavo.QTensor; "
                f"{cls.__name__}.from_float takes float weights"
            )

    @abstractmethod
    def _prepared(self, *parts: Any, **more: Any) -> Any:
        """Return the operator prepared of its parts in their plain form, and of the settings."""

    @property
    def _operator(self) -> Any:
        held = self._held
        if isinstance(held, tuple):
            held = self._prepared(*held)
            self._held = held
        return held

    @property
    def nbytes(self) -> int:
        """Bytes that the operator holds: weights as packed, scales, bias."""
        size: int = self._operator.nbytes
        return size

    def unpack(self) -> tuple[Any, ...]:
        """Return the weights in their plain form, bit for bit as they are used, and the bias."""
        parts: Parts = self._operator.parts()
        return parts

    # A frozen operator is its own copy.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def _settings(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._SETTINGS)

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), self.unpack(), *self._settings())

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (
            f"octavo.{type(self).__name__}",
            *map(_token, self.unpack()),
            *map(repr, self._settings()),
        )


def _token(part: Any) -> object:
    if isinstance(part, np.ndarray):
        return part.dtype.name, digest(part)
    return None if part is None else part.__dask_tokenize__()


Made = TypeVar("Made", bound=Operator)


def restore(cls: type[Made], held: Any, *settings: Any) -> Made:
    """Make an operator of what it holds: prepared, or the parts it will be prepared of."""
    made = cls.__new__(cls)
    made._held = held
    for name, value in zip(cls._SETTINGS, settings, strict=True):
        setattr(made, name, value)
    return made
