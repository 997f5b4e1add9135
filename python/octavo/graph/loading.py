"""`octavo.load`, which brings the rest of this room in when it is called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.graph.model import Model


def load(source: str | os.PathLike[str] | bytes | Any, *, strict: bool = False) -> Model:
    """Load a model: ONNX, or what `Model.save` has written.

    Parameters
    ----------
    source : path, bytes of a file, or onnx.ModelProto
        ONNX of opset 11 or later, or an ``.octavo`` file, which is mapped into memory. External
        data is read from the folder of the file alone.
    strict : bool, default False
        Refuse a model with an operator that has no kernel here. Otherwise such operators run
        through onnx's reference implementation, slowly: a warning names them, and
        `Model.coverage` shows them.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        What is no model, or contradicts itself.
    UnsupportedOpError
        An operator without a kernel, with `strict`.
    ImportError
        ONNX, and the package onnx is not installed (the extra "models").

    Warns
    -----
    FallbackWarning
        Operators without a kernel.

    Examples
    --------
    >>> import octavo as oc
    >>> oc.load("not there.onnx")
    Traceback (most recent call last):
        ...
    FileNotFoundError: [Errno 2] No such file or directory: 'not there.onnx'
    """
    from octavo.graph.model import load_model

    return load_model(source, strict)
