"""Rendered clips on disk, read as memory maps while they are still being written."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError


class ClipStore:
    """A folder written by performers.render_dataset. Frame 0 of each clip is the reference picture."""

    def __init__(self, folder: Path):
        info_path = folder / "dataset.json"
        if not info_path.is_file():
            raise InputError(f"{folder}: no dataset.json; render the clips first")
        info = json.loads(info_path.read_text(encoding="utf-8"))
        self.frames: int = info["frames"]  # driven frames, beside the reference
        self.width, self.height = info["size"]
        self.clips = np.load(folder / "frames.npy", mmap_mode="r")  # [N, F + 1, H, W, 3] uint8
        self.pose_images = np.load(folder / "pose_images.npy", mmap_mode="r")  # [N, F + 1, H, W, 3] uint8
        self.face_boxes = np.load(folder / "face_boxes.npy", mmap_mode="r")  # [N, F + 1, 4] px, NaN without a face
        self._done = np.load(folder / "done.npy", mmap_mode="r")  # [N] bool

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def ready(self) -> np.ndarray:
        """Indices of the clips that are written."""
        return np.flatnonzero(self._done)

    def wait(self, clips: int | None = None) -> None:
        """Return when this many clips (all by default) are written."""
        while len(self.ready) < (len(self) if clips is None else min(clips, len(self))):
            time.sleep(0.2)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random clips among those that are written."""
        return rng.choice(self.ready, count)


def prefetch(draw: Callable[[], tuple], *, device: torch.device, depth: int = 4) -> Iterator[tuple]:
    """Endless batches of `draw`, made in a thread; tensors are moved to the device. Errors surface in the caller."""
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

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = batches.get()
            if isinstance(item, Exception):
                raise item
            yield tuple(x.to(device, non_blocking=True) if torch.is_tensor(x) else x for x in item)
    finally:
        stop.set()


def _pinnable(x: Any, device: torch.device) -> bool:
    return torch.is_tensor(x) and device.type == "cuda"
