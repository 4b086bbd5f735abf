"""Experiment 4: driving poses of which joints are missing, all the way to the video."""

from __future__ import annotations

from ...alignment import align
from ...errors import PoseError
from ...pipeline import to_uint8
from ...pose.lost import without_joints
from ...pose.repair import repair_poses
from ...video import contact_sheet
from ...video.curves import Curve, plot_curves, stacked
from ...weights import load_aligner
from .alignment import moved, network
from .paper import beside
from .studio import Studio, pose_distance
from .tables import CSIM, CSIM_ERROR, DIS, FACE_L1, L1, PAPER_CSIM, SETTING, Column, Result, Table, mean_row

SHARES = (0.0, 0.3, 0.5, 0.7)
METHODS = ("svd", "learned")
FILLED = "learned, gaps filled"
FEWER, FEWEST = 4, 3  # times fewer pairs than of the alignments, but so many

MISSING = Column("missing", "% missing", 0)
FAILED = Column("failed", "failed", 0)

SETUP = (
    "{pairs} misaligned pairs of {frames} frames, as in the experiment on alignment. The driver loses that share of "
    "its body joints, as detectors lose them (single joints, whole limbs, the whole person for a while); the face goes "
    "with the nose, a hand with its wrist. The transform is fitted to what is left, and what is left is drawn. Dis and "
    'the place of the faces are of the whole driver, moved by that transform. "Gaps filled": first repaired as `poses '
    "extract` repairs, which closes gaps of up to 8 frames. Where nothing can be fitted (failed) the poses are those "
    "of none. HJB is off."
)


def run(studio: Studio) -> Result:
    """Both methods at every share, and the learned one after a repair."""
    pairs, aligner = studio.pairs(max(FEWEST, studio.extent.pairs // FEWER)), load_aligner()
    scores: dict[tuple[float, str], list[dict[str, float]]] = {}
    sheet = []
    for number, take in enumerate(studio.told(pairs, "pairs with missing joints")):
        for share in SHARES:
            left = without_joints(take.driver, share, seed=take.clip.seed)
            ways = {method: (method, left) for method in METHODS}
            if share:
                ways[FILLED] = ("learned", repair_poses(left))
            for name, (method, seen) in ways.items():
                try:
                    aligned = align(seen, take.clip.reference_pose, method, aligner=network(method, aligner))
                    poses, whole = aligned.poses, moved(take.driver, aligned.transform, take.clip.poses)
                    failed = 0.0
                except PoseError:
                    poses = align(seen, take.clip.reference_pose, "none").poses
                    whole, failed = align(take.driver, take.clip.reference_pose, "none").poses, 1.0
                video = studio.animate(take, poses).video
                values = studio.scores(take, video, studio.faces(whole))
                scores.setdefault((share, name), []).append(
                    values | {"dis": pose_distance(take, whole), "failed": failed}
                )
                if number == 0:
                    sheet.append((f"{100 * share:.0f} %, {name}", to_uint8(video)))
        if number == 0:
            sheet.append(("the truth", take.clip.frames))
    rows = [
        mean_row(name, values, missing=round(100 * share)) | {"failed": int(sum(value["failed"] for value in values))}
        for (share, name), values in scores.items()
    ]
    table = Table(
        "missing", "Methods and shares of the joints that are missing",
        (SETTING, MISSING, DIS, CSIM, CSIM_ERROR, PAPER_CSIM, L1, FACE_L1, FAILED),
        (*beside("missing", rows), *studio.places(pairs)),
    )  # fmt: skip
    plots = [
        plot_curves(
            [
                Curve(
                    name,
                    [100 * share for share, method in scores if method == name],
                    [row[column.key] for row in rows if row["setting"] == name],
                )
                for name in (*METHODS, FILLED)
            ],
            "% of the driver's joints missing", column.title, height=300,
        )
        for column in (DIS, CSIM, L1)
    ]  # fmt: skip
    return Result(
        "missing", "Missing keypoints", SETUP.format(pairs=len(pairs), frames=studio.extent.frames), (table,),
        {"missing": stacked(*plots)}, {"missing": contact_sheet(sheet, 8)},
    )  # fmt: skip
