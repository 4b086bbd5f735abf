"""Rendered clips on disk, read as memory maps while they are still being written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..performers import open_clips, rendered


class ClipStore:
    """A folder written by performers.render_dataset. Frame 0 of each clip is the reference picture."""

    def __init__(self, folder: Path, *, process: int = 0, processes: int = 1):
        self.folder = folder
        stored = open_clips(folder)
        self.clips = stored.frames  # [N, F + 1, H, W, 3] uint8
        self.pose_images = stored.pose_images  # [N, F + 1, H, W, 3] uint8
        self.face_boxes = stored.face_boxes  # [N, F + 1, 4] px, NaN without a face
        self.frames = self.clips.shape[1] - 1  # driven ones, beside the reference
        self.height, self.width = self.clips.shape[2:4]
        self.own = np.arange(process, len(self.clips), processes)  # this process's share

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def ready(self) -> int:
        """How many clips are written; they are the first ones."""
        return rendered(self.folder)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random clips of this process's share, among those that are written."""
        return self.own[rng.integers(max(1, int((self.own < self.ready).sum())), size=count)]


def prefetch(draw: Callable[[], tuple], *, device: torch.device, depth: int = 4) -> Iterator[tuple]:
    """Endless batches of `draw`, made in a thread; tensors are moved to the device. Errors surface in the caller.

    Closed, or no longer used, it waits for the thread: one that still computes when Python ends brings it down.
    """
    batches: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                item: Any = tuple(x.pin_memory() if _pinnable(x, device) else x for x in draw())
            except Exception as error:  # handed to the consumer, which raises it
                item = error
            while not stop.is_set():
                try:
                    batches.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            item = batches.get()
            if isinstance(item, Exception):
                raise item
            yield tuple(x.to(device, non_blocking=True) if torch.is_tensor(x) else x for x in item)
    finally:
        stop.set()
        while not batches.empty():  # the thread may be waiting for room
            batches.get_nowait()
        worker.join()


def _pinnable(x: Any, device: torch.device) -> bool:
    return torch.is_tensor(x) and device.type == "cuda"
