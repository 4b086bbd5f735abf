"""What a running node tells its view in the page, and what it keeps for its next run."""

from __future__ import annotations

import base64
import io
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from comfy_api.latest import io as comfy
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..stableanimator_core.face import ReferenceFace
from ..stableanimator_core.hjb import Likeness
from ..stableanimator_core.trail import Plan, Trail
from ..stableanimator_core.video.pixels import to_uint8
from .patchers import AnimatorModel

IDENTITY, LEFT, TEXT = "stableanimator.identity", "stableanimator.left", "stableanimator.text"
HIDDEN = [comfy.Hidden.unique_id, comfy.Hidden.extra_pnginfo]  # what a node asks for, to be found in the page
WAITING = 256  # messages for the page; more, and it does not keep up
COLUMNS = 64  # frames that the page draws, the most
FACE_SIDE = 64  # px
MEMORIES = 2  # nodes of one model that keep their steps


def watched() -> bool:
    """Whether a page queued the run and listens; runs through the API alone have nobody who looks on."""
    return PromptServer.instance is not None and PromptServer.instance.client_id is not None


class Sender(NamedTuple):
    """A node that runs, as the page finds it. Other workflows have nodes of the same id."""

    node: str
    workflow: str | None  # the page's id of it; None where the prompt came without one

    @classmethod
    def of(cls, hidden: comfy.HiddenHolder) -> Sender:
        """The node that asked for HIDDEN."""
        workflow = (hidden.extra_pnginfo or {}).get("workflow") or {}
        return cls(hidden.unique_id, workflow.get("id"))

    def tell(self, event: str, data: dict) -> None:
        """Send something to the page that queued the run, or drop it while that page does not keep up. Never waits."""
        server = PromptServer.instance
        if watched() and server.messages.qsize() < WAITING:
            server.send_sync(event, data | self._asdict() | {"prompt_id": server.last_prompt_id}, server.client_id)


class Notes:
    """What a node says below its widgets: while it runs, and again as its output `ui`. web/notes.js shows it."""

    def __init__(self, hidden: comfy.HiddenHolder) -> None:
        self.sender = Sender.of(hidden)
        self.node = self.sender.node
        self.lines: list[str] = []  # that stay, the most important first
        self._status: str | None = None

    def say(self, *lines: str) -> None:
        """Add lines that were not said yet."""
        self.lines += [line for line in dict.fromkeys(lines) if line not in self.lines]
        self._tell()

    def status(self, text: str | None) -> None:
        """Say what the node does at the moment, in place of what it said it did before."""
        self._status = text
        self._tell()

    @property
    def ui(self) -> dict[str, tuple[str, ...]]:
        """For the node's output; without lines it clears what the last run said."""
        return {"text": ("\n".join(self.lines),) if self.lines else ()}

    def _tell(self) -> None:
        self.sender.tell(TEXT, {"status": self._status, "text": "\n".join(self.lines)})


def tell_failure(hidden: comfy.HiddenHolder, message: str) -> None:
    """Say what a node failed with, in place of what it said before; nothing of one that asked for no HIDDEN."""
    if hidden.unique_id is not None:
        line = message.partition("\n")[0]
        Sender.of(hidden).tell(TEXT, {"status": None, "text": f"PROBLEM: {line}", "failed": True})


@dataclass
class Memory:
    """What a Sample node keeps of its last run: x of its steps, and the likeness in those that were measured."""

    trail: Trail = field(default_factory=Trail)
    told: list[dict] = field(default_factory=list)

    def show_end(self, steps: int) -> None:
        """For a run that measures: the last of so many steps is run again where it was run without."""
        if all(event["step"] < steps - 1 for event in self.told):
            self.trail.forget_from(steps - 1)

    def forget_from(self, step: int) -> None:
        """Drop what was measured in steps that will be run again, whether they will be measured or not."""
        self.told = [event for event in self.told if event["step"] < step]


# With their model, which ComfyUI drops from its cache when its memory is freed.
_MEMORIES: WeakKeyDictionary[object, OrderedDict[str, Memory]] = WeakKeyDictionary()


def memory_of(model: AnimatorModel, node: str) -> Memory:
    """What this node kept when it last ran with this model; of each model's nodes the latest two keep theirs."""
    kept = _MEMORIES.setdefault(model.models.unet, OrderedDict())
    kept[node] = kept.pop(node, None) or Memory()
    while len(kept) > MEMORIES:
        kept.popitem(last=False)
    return kept[node]


class IdentityScope:
    """Tells the page how alike the faces are while it is measured, and records it for the node's output.

    One "start", a "likeness" for every measurement and one "end"; web/scope.js draws them. A clip of more than 64
    frames is told as 64 columns, each the worst of its frames. Iterations between the first and the last of a step are
    recorded by their mean alone.
    frames: the clip's frame numbers. hjb: as `resolve` says it. memory: what it holds of steps that are not run again
    is told first.
    """

    def __init__(
        self, sender: Sender, frames: Sequence[int], face: ReferenceFace | None, hjb: dict[str, Any], plan: Plan,
        memory: Memory,
    ) -> None:  # fmt: skip
        self._sender, self._memory, self._frames = sender, memory, list(frames)
        self._started, self._plan = time.monotonic(), plan
        self._columns = np.array_split(np.arange(len(frames)), min(len(frames), COLUMNS))
        self._start = {
            "kind": "start",
            "steps": plan.steps,
            "first": plan.first,
            "hjb": hjb,
            "frames": [self._frames[column[0]] for column in self._columns],
            "seconds": None if plan.seconds is None else max(round(plan.seconds), 1),
            "face": None if face is None or face.crop is None else picture_url(face.crop),
        }
        self._tell(self._start | {"kept": _with_last_face(memory.told)})

    def on_identity(self, likeness: Likeness) -> None:
        """Tell and record one measurement; frames without a face have none."""
        csim = likeness.csim.float().cpu().numpy()
        if np.isnan(csim).all():
            return
        worst = int(np.nanargmin(csim))
        phase = "alone"
        if likeness.refined:
            phase = "after" if likeness.last else "refining" if likeness.iteration else "before"
        event = {
            "kind": "likeness",
            "step": likeness.step,
            "iteration": likeness.iteration,
            "phase": phase,
            "csim": [_rounded(csim[column]) for column in self._columns],
            "mean": round(float(np.nanmean(csim)), 3),
            "worst": {"frame": self._frames[worst], "csim": round(float(csim[worst]), 3)},
        }
        if likeness.last:
            event["worst"]["face"] = picture_url(likeness.faces[likeness.frames.index(worst)])
        self._tell(event)
        shown = event if phase != "refining" else {key: value for key, value in event.items() if key != "csim"}
        self._memory.told.append(shown)

    def left(self, done: int, seconds: float, whole: bool) -> None:
        """Tell how many steps are done and how long the others take; whole: with their face optimisation."""
        self._sender.tell(LEFT, {"done": done, "seconds": max(round(seconds), 1), "whole": whole})

    def end(self) -> list[dict]:
        """Tell that the run is over; all events, for the node's output."""
        end = {"kind": "end", "seconds": round(time.monotonic() - self._started)}
        self._tell(end)
        return [self._start, *_with_last_face(self._memory.told), end]

    def _tell(self, event: dict) -> None:
        self._sender.tell(IDENTITY, event)


def _with_last_face(told: list[dict]) -> list[dict]:
    """The same events, only the last one with the picture of its worst face: the page shows no other."""
    faceless = [event | {"worst": {**event["worst"], "face": None}} for event in told[:-1]]
    return [*faceless, *told[-1:]]


def _rounded(csim: np.ndarray) -> float | None:
    """The worst of some frames' similarities, None where none of them has a face."""
    known = csim[~np.isnan(csim)]
    return round(float(known.min()), 3) if len(known) else None


def picture_url(picture: Tensor) -> str:
    """A small JPEG of a picture, [3, H, W] in -1..1, as a URL that holds it."""
    pixels, file = Image.fromarray(to_uint8(picture[None].float())[0]), io.BytesIO()
    pixels.resize((FACE_SIDE, FACE_SIDE), Image.Resampling.LANCZOS).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
