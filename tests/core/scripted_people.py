"""People as a detector would find them, at known places: the truth for following and repair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stableanimator_core.pose.detector import Person

WIDTH, HEIGHT = 640, 480

# A body of height 1 around its middle: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
BODY = np.array(
    [(0.0, -0.42), (0.0, -0.30), (-0.09, -0.29), (-0.14, -0.14), (-0.17, 0.0), (0.09, -0.29), (0.14, -0.14),
     (0.17, 0.0), (-0.06, 0.03), (-0.07, 0.25), (-0.07, 0.46), (0.06, 0.03), (0.07, 0.25), (0.07, 0.46),
     (-0.03, -0.45), (0.03, -0.45), (-0.06, -0.43), (0.06, -0.43)]
)  # fmt: skip


def somebody(
    x: float, y: float = 240, height: float = 300, *, score: float = 0.9, stride: float = 0.0, noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Person:  # fmt: skip
    """Somebody of `height` px, the middle of the body at x, y; stride turns limbs from one frame to the next."""
    body = BODY * height
    body[[4, 13], 0] += 0.15 * height * np.sin(stride)
    body[[7, 10], 0] -= 0.15 * height * np.sin(stride)
    body += (x, y)
    nose = body[0]
    face = nose + 0.05 * height * np.column_stack([np.cos(np.arange(68)), np.sin(np.arange(68))])
    hands = np.stack([body[7] + np.linspace(0, 0.08 * height, 21)[:, None] * (1, 1),
                      body[4] + np.linspace(0, 0.08 * height, 21)[:, None] * (-1, 1)])  # fmt: skip
    if noise:
        rng = rng or np.random.default_rng(0)
        body, face, hands = (part + rng.normal(0, noise, part.shape) for part in (body, face, hands))

    def scored(points):
        return np.concatenate([points, np.full((*points.shape[:-1], 1), score)], axis=-1)

    low, high = body.min(0) - 0.05 * height, body.max(0) + 0.05 * height
    return Person(np.concatenate([low, high]), score, scored(body), scored(face), scored(hands))


def nobody_sure(person: Person, score: float = 0.1) -> Person:
    """The same box with points that the keypoint network does not believe in."""
    body, face, hands = (np.array(part) for part in (person.body, person.face, person.hands))
    for part in (body, face, hands):
        part[..., 2] = score
    return person._replace(body=body, face=face, hands=hands)


class ScriptedDetector:
    """Finds in frame i the people of script i; a frame carries its number in its first pixel."""

    def __init__(self, script: Sequence[Sequence[Person]], notes: tuple[str, ...] = ()):
        self.script, self.notes, self.batches = script, notes, []

    def detect(self, frames, *, min_person_score=0.3):
        self.batches.append(len(frames))
        numbers = [int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1]) for frame in frames]
        return [[p for p in self.script[number] if p.score > min_person_score] for number in numbers]

    def frames(self, width: int = WIDTH, height: int = HEIGHT):
        """The clip, one frame after the other."""
        for number in range(len(self.script)):
            frame = np.zeros((height, width, 3), np.uint8)
            frame[0, 0, :2] = divmod(number, 256)
            yield frame
