"""Curves of a training for TensorBoard, where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)


class Curves:
    """Scalars by step, in TensorBoard's files; folder None: nowhere.

    step: that a run goes on from; what was written for later ones, before it was killed, is not shown.
    """

    def __init__(self, folder: Path | None, *, step: int = 0):
        self._writer = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # nothing else needs it
            log.info("no curves are written: pip install tensorboard, then look at %s with it", folder)
            return
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add points after so many steps."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Write what is still waiting."""
        if self._writer is not None:
            self._writer.close()
