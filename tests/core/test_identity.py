"""Identity of any video: who is told apart, where faces are, what is said and what is drawn."""

import numpy as np
import pytest
import torch

from stableanimator_core.errors import FaceError, InputError, PoseError
from stableanimator_core.evaluation.identity import (
    WORST,
    Identity,
    describe_identity,
    draw_identity,
    draw_worst,
    locate_faces,
    score_video,
)
from stableanimator_core.face import DetectedFace
from stableanimator_core.face.template import TEMPLATE
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import find_face
from stableanimator_core.weights import BUILT_IN, V1_CONFIG, load_models

FRAMES = 18  # more than are embedded at a time


class Detector:
    """Finds a face of this many px at the frame's place, and nobody in black frames."""

    def __init__(self, *sides: float):
        self.sides = sides

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        if not picture.any():
            return []
        faces = []
        for side in self.sides:
            points = np.array(TEMPLATE) * side / 112 + 10
            faces.append(DetectedFace(np.array([10, 10, 10 + side, 10 + side]), points, 0.9))
        return faces


@pytest.fixture(scope="module")
def mini():
    """The built-in model: its judge knows people."""
    return load_models("mini")


@pytest.fixture(scope="module")
def people(mini):
    """Two drawn performers and the first one's face."""
    clips = [make_clip(seed, size=(160, 160), frames=FRAMES, family="wave") for seed in (3, 4)]
    return *clips, find_face(mini, clips[0].reference, clips[0].reference_pose)


@pytest.mark.skipif(not (BUILT_IN["mini"] / "face_judge.safetensors").is_file(), reason="the built-in model is away")
def test_the_same_person_scores_high_and_a_stranger_low(mini, people):
    own, other, face = people
    done = []
    for clip, least, most in ((own, 0.8, 1.0), (other, -1.0, 0.5)):
        faces = locate_faces(mini.config, clip.frames, clip.poses)
        scored = score_video(mini, clip.frames, faces, face, on_frames=done.append)
        assert scored.csim.shape == (FRAMES,) and (scored.judge, scored.model) == ("judge", "mini")
        assert least < scored.mean < most
    assert done == [16, 18] * 2


def test_every_frame_is_scored_by_its_own_face(mini, people):
    own, other, face = people
    mixed = own.frames.copy()
    mixed[5] = other.frames[5]
    faces = locate_faces(mini.config, mixed, own.poses)
    scored = score_video(mini, mixed, faces, face)
    assert scored.order[0] == 5 and scored.csim[5] < scored.csim[6] - 0.3


def test_frames_without_a_face_are_not_counted(mini, people):
    own, _, face = people
    faces = locate_faces(mini.config, own.frames, own.poses)
    faces.found[[2, 17]] = False
    scored = score_video(mini, own.frames, faces, face)
    assert np.isnan(scored.csim).nonzero()[0].tolist() == [2, 17] and len(scored.order) == FRAMES - 2
    assert "2 of 18 frames show no usable face and are not counted: 2, 17" in describe_identity(scored)
    faces.found[:] = False
    with pytest.raises(FaceError, match="none of 18 frames shows a face, so there is nothing to score; check their"):
        score_video(mini, own.frames, faces, face)


def test_a_face_is_known_without_its_picture(mini, people):
    """Whatever picture is at hand: the reference's own frame shows the same face at another place."""
    own, _, face = people
    below = np.roll(own.reference, 15, axis=0)[None]
    faces = face.place.shifted(0, 15)
    assert score_video(mini, below, faces, face).mean == pytest.approx(1, abs=1e-4)


def test_a_face_of_another_kind_of_model_is_not_compared(mini, people):
    own, _, face = people
    aligned = face._replace(template=torch.eye(3)[:2])
    with pytest.raises(InputError, match="face: cut out aligned, but model 'mini' compares faces .* upright; find it"):
        score_video(mini, own.frames, locate_faces(mini.config, own.frames, own.poses), aligned)


def test_poses_on_another_canvas_are_fitted_to_the_frames(mini, people):
    own, _, _ = people
    wide = own.poses.resized(320, 320)
    a, b = (locate_faces(mini.config, own.frames, poses) for poses in (own.poses, wide))
    torch.testing.assert_close(a.boxes, b.boxes)


def test_what_is_missing_is_said(mini, people):
    own, _, _ = people
    with pytest.raises(PoseError, match="poses: 3 frames, but frames holds 18; give the poses of this very video"):
        locate_faces(mini.config, own.frames, own.poses.slice(0, 3))
    with pytest.raises(InputError, match="poses: not given, but model 'mini' finds faces through poses; give"):
        locate_faces(mini.config, own.frames, detector=Detector(60))
    with pytest.raises(InputError, match="model 'v1' finds faces through poses or a face detector"):
        locate_faces(V1_CONFIG, own.frames)


def test_a_detector_finds_the_largest_face_of_each_frame():
    video = np.full((3, 100, 100, 3), 9, np.uint8)
    video[1] = 0
    faces = locate_faces(V1_CONFIG, video, detector=Detector(30, 70))
    assert faces.found.tolist() == [True, False, True] and faces.templates.shape == (3, 2, 3)
    assert float(faces.boxes[0, 2] - faces.boxes[0, 0]) == pytest.approx(70, abs=1)
    assert not locate_faces(V1_CONFIG, video, detector=Detector(10)).found.any(), "too small to tell who it is"


def test_looking_for_faces_can_be_followed_and_stopped():
    video, done = np.full((3, 100, 100, 3), 9, np.uint8), []
    locate_faces(V1_CONFIG, video, detector=Detector(70), on_frames=done.append)
    assert done == [1, 2, 3]

    class Cancelled(Exception):
        pass

    def cancel(frames: int):
        done.append(frames)
        raise Cancelled

    with pytest.raises(Cancelled):
        locate_faces(V1_CONFIG, video, detector=Detector(70), on_frames=cancel)
    assert done == [1, 2, 3, 1]


CSIM = np.array([0.9, 0.8, np.nan, 0.4, 0.5, 0.5, 0.5, 0.5])


def test_numbers_are_told_in_words():
    told = describe_identity(Identity(CSIM, "judge", "mini")).splitlines()
    assert told[0] == "identity 0.586 on average over 7 frames, from 0.400 to 0.900"
    assert told[1] == "least alike: frame 3 (0.400), frame 4 (0.500), frame 5 (0.500), frame 6 (0.500), frame 7 (0.500)"
    assert told[2] == "drift: the last quarter is 0.350 less alike than the first"
    assert told[3] == "1 of 8 frames show no usable face and are not counted: 2"
    assert told[4] == "judged by a network of model 'mini' that the face optimisation (HJB) never sees"
    told = describe_identity(Identity(np.linspace(0.9, 0.6, 16), "judge", "mini")).splitlines()
    assert told[2] == "drift: -0.320 in 16 frames; the last quarter is 0.240 less alike than the first"
    told = describe_identity(Identity(CSIM[:1], "embedder", "v1")).splitlines()
    assert told[0] == "identity 0.900 on average over 1 frame" and len(told) == 2
    assert "the very network that the face optimisation (HJB) optimises: it flatters" in told[1]


def test_a_draft_calls_its_frames_by_their_numbers_in_the_motion():
    """As Sample's scope does; a few frames from all over the motion say nothing of drift."""
    told = describe_identity(Identity(np.array([0.9, 0.8, np.nan, 0.5]), "judge", "mini", (0, 2, 9, 14)))
    assert "least alike: frame 14 (0.500), frame 2 (0.800), frame 0 (0.900)" in told
    assert "not counted: 9" in told and "drift" not in told


def test_the_curve_marks_the_worst_frames():
    picture = draw_identity(Identity(CSIM, "judge", "mini"), marked=2, size=(960, 400))
    assert picture.shape == (400, 960, 3)
    columns = np.flatnonzero((picture == WORST).all(-1).any(0))
    assert 350 < columns.min() and columns.max() < 620, "frames 3 and 4 of 0 to 7, and the first one's label"
    assert draw_identity(Identity(CSIM[:1], "judge", "mini")).any()


@pytest.mark.parametrize("lowest", [-0.2, 0.3, 0.62, 0.83])
def test_every_line_of_the_plot_has_its_own_number(monkeypatch, lowest):
    lines = []
    monkeypatch.setattr("stableanimator_core.video.charts.Chart.tick_y", lambda _, at, text: lines.append((at, text)))
    draw_identity(Identity(np.array([lowest, 0.97]), "judge", "mini"))
    assert len(lines) > 2
    assert [float(text) for _, text in lines] == pytest.approx([at for at, _ in lines], abs=1e-6)


def test_the_sheet_shows_the_worst_faces_beside_the_reference(mini, people):
    own, other, face = people
    mixed = own.frames.copy()
    mixed[5] = other.frames[5]
    faces = locate_faces(mini.config, mixed, own.poses)
    scored = score_video(mini, mixed, faces, face)
    sheet = draw_worst(scored, mixed, faces, face, count=3)
    cells = [sheet[:192, left : left + 192].astype(int) for left in range(0, 960, 192)]
    assert sheet.shape == (192 + 26, 960, 3) and np.ptp(cells[4]) < 20, "nobody in the last place"
    away = [abs(cell - cells[0]).mean() for cell in cells]
    assert away[1] > 2 * away[2] > 0, "the stranger comes first"
    assert draw_worst(scored, mixed, faces, face, count=99).shape == (4 * (192 + 26), 960, 3)
