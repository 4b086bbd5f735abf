"""Draws icon.png and banner.png of the pack's page in the registry. From the repository: python .github/pictures.py

Nothing in them comes from elsewhere: the performer is drawn by the pack's renderer, the frames are made by the built-in
model with HJB from the demo's picture and motion. About a minute on a CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from stableanimator_core.keypoints import Poses  # noqa: E402
from stableanimator_core.performers import make_pair  # noqa: E402
from stableanimator_core.pipeline import StableAnimator  # noqa: E402
from stableanimator_core.pose.draw import draw_poses  # noqa: E402
from stableanimator_core.video import read_image, write_image  # noqa: E402
from stableanimator_core.video.charts import DARK, write  # noqa: E402

DEMO = FOLDER.parent / "stableanimator_core" / "assets" / "demo"
ICON, BANNER = 400, (1680, 720)  # px: the registry takes squares of at most 400 and banners of 21:9
TILES, TILE, GAP = 5, 312, 20


def icon() -> np.ndarray:
    """Half the demo's performer, half the skeleton that the model sees: uint8 [400, 400, 3]."""
    side = round(1.6 * ICON)
    pair = make_pair(119, size=side, frames=24, family="disco", split="held_out")  # as assets/demo was made
    drawn = pair.clip.reference
    pose = draw_poses(pair.clip.reference_pose, side, side, canvas_short_side=560)[0]
    middle = int(pair.clip.reference_pose.body[0, 0, 1, 0])  # the neck's x
    skeleton = np.where(pose.any(-1, keepdims=True), pose, DARK.paper)
    halves = np.where((np.arange(side) >= middle)[None, :, None], skeleton, drawn)
    return halves[:ICON, middle - ICON // 2 : middle + ICON // 2].astype(np.uint8)


def banner() -> np.ndarray:
    """The picture, and frames made from it with their likeness to it: uint8 [720, 1680, 3]."""
    picture, pose = read_image(DEMO / "reference.png"), Poses.load(DEMO / "reference.json")
    made = StableAnimator.load("mini").animate(picture, Poses.load(DEMO / "driving.json"), pose, seed=7)
    sheet = np.full((BANNER[1], BANNER[0], 3), DARK.paper, np.uint8)
    write(sheet, "StableAnimator++", GAP, 150, colour=(255, 255, 255), size=120)
    write(sheet, "one picture and a motion become a video with the same face", GAP, 230, colour=DARK.ink, size=46)
    chosen = np.linspace(2, len(made.frames) - 1, TILES - 1).round().astype(int)
    tiles = [(picture, "picture")] + [(made.frames[i], f"identity {made.csim[i]:.2f}") for i in chosen]
    for column, (tile, caption) in enumerate(tiles):
        x, y = GAP + column * (TILE + GAP), 310
        sheet[y : y + TILE, x : x + TILE] = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.LANCZOS)
        write(sheet, caption, x + TILE / 2, y + TILE + 60, colour=DARK.ink, size=40, anchor="ms")
    return sheet


if __name__ == "__main__":
    write_image(FOLDER / "icon.png", icon())
    write_image(FOLDER / "banner.png", banner())
