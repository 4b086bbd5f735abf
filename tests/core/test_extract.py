"""From frames to poses: batches, slots, canvas, notes and refusals, with a detector that follows a script."""

import numpy as np
import pytest
from scripted_people import HEIGHT, WIDTH, ScriptedDetector, nobody_sure, somebody

from stableanimator_core.errors import PoseError
from stableanimator_core.pose import extract_poses

EXACT = {"smooth": 0, "fill_gap": 0}


def extract(script, **options):
    detector = ScriptedDetector(script)
    return extract_poses(detector, detector.frames(), **options)


def test_every_point_arrives_in_its_place():
    script = [[somebody(200 + 4 * i, stride=0.1 * i)] for i in range(5)]
    poses, notes = extract(script, **EXACT)
    assert (poses.frames, poses.people, poses.width, poses.height) == (5, 1, WIDTH, HEIGHT)
    for frame, [person] in enumerate(script):
        for name in ("body", "face", "hands"):
            np.testing.assert_array_equal(getattr(poses, name)[frame, 0], getattr(person, name)[..., :2])
            np.testing.assert_array_equal(getattr(poses, f"{name}_score")[frame, 0], getattr(person, name)[..., 2])
    assert notes == ()


def test_scores_end_at_one():
    sure = somebody(320, score=1.25)
    assert extract([[sure._replace(score=0.9)]] * 3, **EXACT).poses.body_score.max() == 1


@pytest.mark.parametrize(("frames", "batch", "batches"), [(10, 4, [4, 4, 2]), (3, 8, [3]), (2, 1, [1, 1])])
def test_frames_are_read_batch_by_batch(frames, batch, batches):
    detector = ScriptedDetector([[somebody(320)]] * frames)
    read, progress = [], []

    def counted():
        for frame in detector.frames():
            read.append(len(detector.batches))
            yield frame

    extract_poses(detector, counted(), batch=batch, on_frames=progress.append)
    assert detector.batches == batches
    assert progress == np.cumsum(batches).tolist()
    assert read == [number for number, size in enumerate(batches) for _ in range(size)], "frames are read ahead"


def test_cancelling_stops_at_once():
    detector = ScriptedDetector([[somebody(320)]] * 20)

    def cancel(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_poses(detector, detector.frames(), batch=4, on_frames=cancel)
    assert detector.batches == [4]


def two_people(frames=12):
    """In turns first and second in the detector's list."""
    return [[somebody(200), somebody(480, height=180)][:: 1 if i % 2 else -1] for i in range(frames)]


def test_a_slot_is_the_same_person_in_every_frame():
    poses, notes = extract(two_people(), everyone=True, **EXACT)
    assert poses.people == 2
    assert np.ptp(poses.body, axis=0).max() == 0
    assert poses.body[0, 0, 1, 0] == pytest.approx(200)
    assert notes == ("2 people found; person 0 comes first and leads the alignment and the face",)


def test_one_person_is_chosen():
    poses, notes = extract(two_people(), **EXACT)
    assert (poses.people, poses.body[0, 0, 1, 0]) == (1, pytest.approx(200))
    assert notes == ("2 people found; the main one is followed, person 1 is the next",)
    poses, notes = extract(two_people(), person=1, **EXACT)
    assert (poses.people, poses.body[0, 0, 1, 0]) == (1, pytest.approx(480))
    assert notes == ("2 people found; person 1 is followed, person 0 is the main one",)
    poses, notes = extract(two_people(), person=1, everyone=True, **EXACT)
    assert poses.body[0, :, 1, 0].tolist() == pytest.approx([480, 200])


def test_defaults_repair():
    script = [[somebody(200 + 5 * i)] for i in range(12)]
    script[4] = script[5] = []
    script[8] = [nobody_sure(somebody(240))]
    poses, notes = extract(script)
    assert poses.visible().all()
    np.testing.assert_allclose(poses.body[:, 0, 1, 0], 200 + 5 * np.arange(12), atol=1e-6)
    assert notes == ()


def test_thresholds_are_handed_on():
    script = [[somebody(320, score=0.25)]] * 3
    with pytest.raises(PoseError, match=r"nobody found in any of 3 frames; lower the thresholds \(person 0.3, points"):
        extract(script)
    assert extract(script, min_person_score=0.2, min_score=0.2).poses.people == 1
    with pytest.raises(PoseError, match="smooth is 3"):
        extract(script, min_person_score=0.2, min_score=0.2, smooth=3)


@pytest.mark.parametrize(("missing", "note"), [
    ([5], "frame 5 shows nobody"),
    ([0, 1, 2], "frames 0 to 2 show nobody"),
    ([3, 4, 9, 19], "frames 3 to 4, 9, 19 show nobody"),
    (list(range(1, 15, 2)), "frames 1, 3, 5, 7 show nobody; so do 3 more stretches"),
])  # fmt: skip
def test_frames_without_anybody_are_named(missing, note):
    script = [[] if i in missing else [somebody(320)] for i in range(20)]
    poses, notes = extract(script, **EXACT)
    assert np.flatnonzero(~poses.visible().any((1, 2))).tolist() == missing
    assert notes == (note,)


def test_an_absent_person_is_not_called_nobody():
    script = [[somebody(320), *([somebody(100, height=150)] if i < 10 else [])] for i in range(20)]
    assert extract(script, person=1).notes[-1] == "frames 10 to 19 show nothing of person 1"


def test_notes_of_the_detector_come_first():
    detector = ScriptedDetector(two_people(), notes=("onnxruntime is the CPU build",))
    assert extract_poses(detector, detector.frames()).notes[0] == "onnxruntime is the CPU build"


def test_a_picture_is_a_clip_of_one_frame():
    poses, notes = extract([[somebody(320)]])
    assert (poses.frames, poses.people) == (1, 1)
    assert poses.visible().all()
    with pytest.raises(PoseError, match="nobody found in the picture; lower"):
        extract([[]])


def test_frames_of_another_size_are_fitted_into_the_first_canvas():
    script = [[somebody(320)], [somebody(320)]]
    detector = ScriptedDetector(script)
    first, second = detector.frames()
    large = np.zeros((HEIGHT * 2, WIDTH * 4, 3), np.uint8)
    large[0, 0] = second[0, 0]
    poses, _ = extract_poses(detector, [first, large], **EXACT)
    assert (poses.width, poses.height) == (WIDTH, HEIGHT)
    shift = (0, HEIGHT / 4)
    np.testing.assert_allclose(poses.body[1], poses.body[0] / 4 + shift)
    np.testing.assert_allclose(poses.hands[1], poses.hands[0] / 4 + shift)


@pytest.mark.parametrize(("options", "message"), [
    ({"person": 2}, "person 2 asked for, 2 found; they are counted from 0"),
    ({"person": -1}, "person -1: need 1 or more frames a batch and a person counted from 0"),
    ({"batch": 0}, "batch 0, person 0: need"),
])  # fmt: skip
def test_wrong_choices(options, message):
    with pytest.raises(PoseError, match=message):
        extract(two_people(), **options)


def test_no_frames_and_nobody():
    with pytest.raises(PoseError, match="no frames to look for people in"):
        extract([])
    with pytest.raises(PoseError, match="nobody found in any of 4 frames"):
        extract([[], [nobody_sure(somebody(320))], [], []])
