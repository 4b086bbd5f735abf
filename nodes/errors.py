"""The core's one-line errors, shown on the node as one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from ..stableanimator_core.errors import InputError

Result = TypeVar("Result")


def one_line_errors(execute: Callable[..., Result]) -> Callable[..., Result]:
    """Raise an InputError of the core anew, without the frames and causes that only its developers want to see."""

    @functools.wraps(execute)
    def wrapped(*args, **kwargs) -> Result:
        try:
            return execute(*args, **kwargs)
        except InputError as error:
            failure = type(error)(str(error))
        raise failure

    return wrapped
