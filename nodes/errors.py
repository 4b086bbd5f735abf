"""Errors of nodes: the core's as one line, and each below the node that failed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from comfy.model_management import InterruptProcessingException

from ..stableanimator_core.errors import InputError
from .desk import tell_failure

Result = TypeVar("Result")


def one_line_errors(execute: Callable[..., Result]) -> Callable[..., Result]:
    """Raise an InputError of the core anew, without the frames and causes that only its developers want to see.

    The page is told of it and of every other error, so that the node does not go on showing what its last run said.
    """

    @functools.wraps(execute)
    def wrapped(node, *args, **kwargs) -> Result:
        try:
            return execute(node, *args, **kwargs)
        except InterruptProcessingException:
            raise
        except InputError as error:
            failure = type(error)(str(error))
            tell_failure(node.hidden, str(error))
        except Exception as error:
            tell_failure(node.hidden, f"{type(error).__name__}: {error}")
            raise
        raise failure

    return wrapped
