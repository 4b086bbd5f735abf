"""People drawn into frames are found again by networks that see colours (onnx_graphs)."""

from types import SimpleNamespace

import numpy as np
import pytest

from stableanimator_core.errors import InputError, PoseError, WeightsError
from stableanimator_core.onnx_session import Session, open_session
from stableanimator_core.pose import dwpose
from stableanimator_core.pose.detector import FRAMES_AT_ONCE, PEOPLE_AT_ONCE, PoseDetector
from stableanimator_core.weights.places import Places

onnx = pytest.importorskip("onnx", reason="the package onnx, which builds the tests' networks, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from onnx_graphs import draw_person, save_keypoint_network, save_person_detector, spread_joints  # noqa: E402

SMALL, SMALL_CROP = (320, 320), (192, 144)  # the networks' input sizes, height first: a quarter of the work


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Builds and opens both networks, once per set of arguments."""
    folder, opened = tmp_path_factory.mktemp("networks"), {}

    def build(batch=1, crop_batch="batch", size=SMALL, crop_size=SMALL_CROP, gain=1.0):
        key = (batch, crop_batch, size, crop_size, gain)
        if key not in opened:
            boxes = save_person_detector(folder / f"{len(opened)}/yolox_l.onnx", batch=batch, size=size)
            crop = {"batch": crop_batch, "size": crop_size, "gain": gain}
            keypoints = save_keypoint_network(folder / f"{len(opened)}/dw-ll_ucoco_384.onnx", **crop)
            opened[key] = (open_session(boxes, "cpu"), open_session(keypoints, "cpu"))
        return opened[key]

    return build


@pytest.fixture
def detector(networks):
    return PoseDetector(*networks())


class Answering:
    """Stands in for the person detector and answers with fixed boxes."""

    def __init__(self, session, boxes, scores=None):
        self.real, self.boxes, self.scores = session.runner, boxes, scores or [0.9] * len(boxes)

    def get_inputs(self):
        return self.real.get_inputs()

    def run(self, _, feeds):
        (picture,) = feeds.values()
        raw = np.zeros((len(picture), len(dwpose.cell_grid(*SMALL)[0]), 85), dtype=np.float32)
        cells, strides = dwpose.cell_grid(*SMALL)
        for anchor, (box, score) in enumerate(zip(self.boxes, self.scores)):
            box = np.array(box, dtype=np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                raw[:, anchor, :2] = (box[:2] + box[2:]) / 2 / strides[anchor] - cells[anchor]
                raw[:, anchor, 2:4] = np.log((box[2:] - box[:2]) / strides[anchor])
            raw[:, anchor, 4], raw[:, anchor, 5] = score, 1.0
        return [raw]


def answering(session: Session, boxes, scores=None) -> Session:
    """The session with fixed boxes for an answer, px of a frame of the size of the detector's input."""
    return session._replace(runner=Answering(session, boxes, scores))


class Counting:
    """Keeps the sizes of the batches that a session is fed."""

    def __init__(self, session):
        self.runner, self.batches = session.runner, []

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def run(self, names, feeds):
        self.batches += [len(array) for array in feeds.values()]
        return self.runner.run(names, feeds)


def check_person(person, joints, tolerance, score=0.9):
    """All 134 joints within the tolerance in px, all surely seen."""
    expected, _ = dwpose.to_openpose(joints, np.ones(133))
    for found, part in (
        (person.body, expected[dwpose.BODY]),
        (person.face, expected[dwpose.FACE]),
        (person.hands.reshape(42, 3), expected[dwpose.HANDS]),
    ):
        assert np.abs(found[:, :2] - part).max() <= tolerance
        assert found[:, 2].min() > 0.5 and found[:, 2].max() <= 1
    assert person.score == pytest.approx(score)


def frame_with(*boxes, width=480, height=360, seed=0):
    """A black frame with somebody in each box, and their joints."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    joints = [spread_joints(box, seed + who) for who, box in enumerate(boxes)]
    for who, box in enumerate(boxes):
        draw_person(frame, box, joints[who], who=who)
    return frame, joints


def test_one_person_at_the_published_sizes(networks):
    detector = PoseDetector(*networks(size=(640, 640), crop_size=(384, 288)))
    box = (60, 20, 260, 340)
    frame, (joints,) = frame_with(box)
    ((person,),) = detector.detect([frame])
    np.testing.assert_allclose(person.box, box, atol=1.5)
    check_person(person, joints, tolerance=1)
    assert person.body.shape == (18, 3) and person.face.shape == (68, 3) and person.hands.shape == (2, 21, 3)
    assert detector.notes == ()


@pytest.mark.parametrize("scale", [0.5, 1, 2, 6])
@pytest.mark.parametrize("landscape", [True, False])
def test_two_people_in_frames_of_several_sizes(detector, scale, landscape):
    if landscape:
        width, height, boxes = 480, 360, [(10, 30, 216, 350), (264, 20, 470, 300)]
    else:
        width, height, boxes = 270, 480, [(10, 10, 150, 210), (90, 280, 260, 470)]
    boxes = [tuple(round(side * scale) for side in box) for box in boxes]
    frame, joints = frame_with(*boxes, width=round(width * scale), height=round(height * scale))
    (people,) = detector.detect([frame])
    assert len(people) == 2
    for who, person in enumerate(people):  # the surer first
        np.testing.assert_allclose(person.box, boxes[who], atol=3 * scale)
        check_person(person, joints[who], tolerance=1 + 1.2 * scale, score=(0.9, 0.8)[who])


def test_the_surest_comes_first_wherever_it_stands(detector):
    boxes = (300, 30, 460, 330), (20, 30, 180, 330)
    frame, _ = frame_with(*boxes)
    (people,) = detector.detect([frame])
    assert [round(person.box[0] / 20) for person in people] == [15, 1]
    assert people[0].score > people[1].score


@pytest.mark.parametrize(
    ("batch", "crop_batch", "fed", "crops_fed"),
    [
        (1, 1, [1] * 5, [1] * 6),
        (4, 4, [4, 4], [4, 4]),
        ("frames", "people", [5], [6]),
    ],
)
def test_batches_are_those_of_the_files_and_people_of_several_frames_share_one(
    networks, batch, crop_batch, fed, crops_fed
):
    sessions = networks(batch=batch, crop_batch=crop_batch)
    boxes, keypoints = (Counting(session) for session in sessions)
    detector = PoseDetector(sessions[0]._replace(runner=boxes), sessions[1]._replace(runner=keypoints))
    one, joints_of_one = frame_with((20, 30, 200, 330))
    two, joints_of_two = frame_with((20, 40, 220, 400), (300, 30, 460, 330), width=470, height=420, seed=5)
    nobody = np.zeros((100, 50, 3), dtype=np.uint8)

    found = detector.detect([one, two, nobody, two, one])

    assert (boxes.batches, keypoints.batches) == (fed, crops_fed)
    assert [len(people) for people in found] == [1, 2, 0, 2, 1]
    for people, joints in zip(found, (joints_of_one, joints_of_two, [], joints_of_two, joints_of_one)):
        for person, of_person in zip(people, joints):
            assert np.abs(person.face[:, :2] - of_person[23:91]).max() < 3


def test_a_free_batch_has_a_limit(networks):
    sessions = networks(batch="frames", crop_size=(96, 72))
    boxes, keypoints = (Counting(session) for session in sessions)
    detector = PoseDetector(sessions[0]._replace(runner=boxes), sessions[1]._replace(runner=keypoints))
    frame, _ = frame_with((20, 30, 200, 330), (250, 30, 450, 330))
    detector.detect([frame] * (FRAMES_AT_ONCE + 1))
    assert boxes.batches == [FRAMES_AT_ONCE, 1]
    assert keypoints.batches == [PEOPLE_AT_ONCE, 2]


def test_a_network_that_promises_any_batch_and_takes_one(networks, detector):
    """Or a card whose memory holds one person and not sixteen."""
    boxes, keypoints = networks()

    class TakesOne(Counting):
        def run(self, names, feeds):
            answer = super().run(names, feeds)
            if self.batches[-1] > 1:
                raise RuntimeError("shape mismatch")
            return answer

    picky = TakesOne(keypoints)
    frame = np.zeros((320, 320, 3), np.uint8)
    for who, box in enumerate(([10, 20, 110, 160], [200, 150, 300, 290])):
        draw_person(frame, box, spread_joints(box), who=who)
    expected = [person for people in detector.detect([frame, frame]) for person in people]
    strict = PoseDetector(boxes, keypoints._replace(runner=picky))
    found = [person for people in strict.detect([frame, frame]) for person in people]
    assert picky.batches == [4, 1, 1, 1, 1]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.body, other.body, atol=1e-4)
    strict.detect([frame])
    assert picky.batches[5:] == [1, 1], "it is remembered"


def test_nobody_is_an_empty_list_and_not_a_made_up_skeleton(detector):
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    assert detector.detect([np.zeros((90, 160, 3), dtype=np.uint8), noise]) == [[], []]
    assert detector.detect([]) == []


def test_a_dog_is_nobody(detector):
    box = (20, 30, 200, 330)
    frame = np.zeros((360, 480, 3), dtype=np.uint8)
    draw_person(frame, box, spread_joints(box), who=3)
    assert detector.detect([frame]) == [[]]


def test_frames_may_be_views_that_nobody_may_write(detector):
    frame, (joints,) = frame_with((20, 30, 200, 330))
    mirrored = frame[:, ::-1].copy()
    view = mirrored[:, ::-1]
    view.flags.writeable = False
    ((person,),) = detector.detect([view])
    check_person(person, joints, tolerance=3)


def test_swapped_channels_are_told_apart(detector):
    """The world is only seen in RGB: this fails when frames are passed on in another order."""
    frame, _ = frame_with((20, 30, 200, 330))
    assert len(detector.detect([frame])[0]) == 1
    assert detector.detect([frame[..., ::-1]]) == [[]]


@pytest.mark.parametrize(("threshold", "people"), [(0.3, 2), (0.8, 1), (0.79, 2), (0.9, 0), (0.0, 2)])
def test_a_score_exactly_at_the_threshold_is_not_above_it(networks, threshold, people):
    frame, _ = frame_with((20, 30, 200, 330), (250, 30, 450, 330))
    assert len(PoseDetector(*networks()).detect([frame], min_person_score=threshold)[0]) == people


def test_unseen_joints_score_zero_and_the_neck_needs_both_shoulders(networks):
    box = (20, 30, 200, 330)
    frame = np.zeros((360, 480, 3), dtype=np.uint8)
    joints = spread_joints(box)
    draw_person(frame, box, joints, seen=[0, 5, 91, 112, 50])
    ((person,),) = PoseDetector(*networks()).detect([frame])
    assert np.flatnonzero(person.body[:, 2]).tolist() == [0, 5]  # nose and the left shoulder, no neck
    assert np.argwhere(person.hands[..., 2]).tolist() == [[0, 0], [1, 0]]  # both wrists of the hands
    assert np.flatnonzero(person.face[:, 2]).tolist() == [27]
    assert np.isfinite(person.body).all()


def test_scores_end_at_one(networks):
    frame, (joints,) = frame_with((20, 30, 200, 330))
    ((person,),) = PoseDetector(*networks(gain=1.7)).detect([frame])
    assert np.concatenate([person.body, person.face])[:, 2].max() == 1.0
    check_person(person, joints, tolerance=3)


@pytest.mark.parametrize("shape", [(1, 1), (7, 4001), (4001, 7), (1, 4001), (2, 3), (3000, 5000)])
def test_odd_frames_hold_nobody(detector, shape):
    assert detector.detect([np.zeros((*shape, 3), dtype=np.uint8)]) == [[]]


@pytest.mark.parametrize("shape", [(1, 1), (7, 4001)])
def test_somebody_said_to_be_in_an_odd_frame_is_no_crash(networks, shape):
    boxes, keypoints = networks()
    ratio = 320 / max(shape)
    whole = (0, 0, shape[1] * ratio, shape[0] * ratio)
    ((person,),) = PoseDetector(answering(boxes, [whole]), keypoints).detect([np.zeros((*shape, 3), dtype=np.uint8)])
    assert person.body[:, 2].max() == 0


def test_a_box_beyond_the_frame_is_kept_whole(networks):
    """Its centre and size place the crop: cut to the frame they would move it."""
    boxes, keypoints = networks()
    box = (-60, -40, 120, 200)
    frame = np.zeros((320, 320, 3), dtype=np.uint8)
    joints = spread_joints(box)
    inside = [joint for joint in range(133) if (joints[joint] > 5).all()]
    draw_person(frame, box, joints, seen=inside)
    ((person,),) = PoseDetector(answering(boxes, [box]), keypoints).detect([frame])
    np.testing.assert_allclose(person.box, box, atol=1e-3)
    faces = [joint for joint in inside if 23 <= joint < 91]
    found = person.face[np.array(faces) - 23]
    assert np.abs(found[:, :2] - joints[faces]).max() < 2 and (found[:, 2] > 0.5).all()
    assert (person.face[:, 2] > 0).sum() == len(faces)


@pytest.mark.parametrize(
    "box",
    [
        (100, 100, 100.5, 200),
        (100, 100, 200, 100.9),
        (-90, 10, -5, 100),
        (400, 10, 500, 100),
        (10, 321, 100, 400),
        (50, 50, np.inf, 90),
        (-3e39, 50, 3e39, 90),
        (50, 50, np.nan, 90),
    ],
)
def test_boxes_without_a_pixel_in_the_frame_are_nobody(networks, box):
    boxes, keypoints = networks()
    detector = PoseDetector(answering(boxes, [box, (20, 20, 60, 90)]), keypoints)
    ((person,),) = detector.detect([np.zeros((320, 320, 3), dtype=np.uint8)])
    np.testing.assert_allclose(person.box, (20, 20, 60, 90), atol=1e-3)


def test_a_person_of_one_pixel_is_looked_at(networks):
    boxes, keypoints = networks()
    detector = PoseDetector(answering(boxes, [(100, 100, 101.5, 101.5)]), keypoints)
    ((person,),) = detector.detect([np.zeros((320, 320, 3), dtype=np.uint8)])
    assert np.isfinite(person.body).all()


def test_two_boxes_around_one_person_are_one_person(networks):
    boxes, keypoints = networks()
    two = answering(boxes, [(20, 20, 100, 200), (22, 20, 104, 200), (200, 20, 300, 200)], [0.5, 0.7, 0.6])
    (people,) = PoseDetector(two, keypoints).detect([np.zeros((320, 320, 3), dtype=np.uint8)])
    assert [round(person.score, 3) for person in people] == [0.7, 0.6]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4), dtype=np.uint8), r"frame 1 of the batch: uint8 \[4, 4\], expected is uint8 RGB"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"frame 1 of the batch: uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4, 3), dtype=np.float32), r"frame 1 of the batch: float32 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "frame 1 of the batch: 4 x 0 px"),
        (np.zeros((2, 32767, 3), dtype=np.uint8), "frame 1 of the batch: 32767 x 2 px; .* scale the video down"),
    ],
)
def test_frames_of_another_kind(detector, frame, message):
    with pytest.raises(PoseError, match=message):
        detector.detect([np.zeros((4, 4, 3), dtype=np.uint8), frame])


def test_networks_in_one_anothers_place_are_told(networks):
    boxes, keypoints = networks()
    with pytest.raises(WeightsError, match=r"dw-ll_ucoco_384.onnx: not a YOLOX person detector: the graph is input .*"):
        PoseDetector(keypoints, keypoints)
    with pytest.raises(WeightsError, match=r"yolox_l.onnx: not a SimCC whole-body keypoint .* expected is input \["):
        PoseDetector(boxes, boxes)


def test_a_size_that_the_file_leaves_open_is_the_usual_one(networks):
    boxes, keypoints = networks()
    free = boxes._replace(inputs=(("images", (1, 3, None, None)),), outputs=(("output", (1, None, None)),))
    fed = []

    def run(_, feeds):
        fed.append(feeds["images"].shape)
        return [np.zeros((1, 8400, 85), dtype=np.float32)]

    runner = SimpleNamespace(get_inputs=boxes.runner.get_inputs, run=run)
    assert PoseDetector(free._replace(runner=runner), keypoints).detect([np.zeros((8, 8, 3), np.uint8)]) == [[]]
    assert fed == [(1, 3, 640, 640)]


def test_a_shape_that_the_file_leaves_open_is_checked_at_work(networks):
    boxes, keypoints = networks()
    free = keypoints._replace(outputs=(("simcc_x", ()), ("simcc_y", (None, None, None))))
    of_17_points = [np.zeros((1, 17, 288), np.float32), np.zeros((1, 17, 384), np.float32)]
    runner = SimpleNamespace(get_inputs=keypoints.runner.get_inputs, run=lambda _, feeds: of_17_points)
    frame, _ = frame_with((20, 30, 200, 330))
    message = r"dw-ll_ucoco_384.onnx: not a SimCC .*: simcc_y \[1, 17, 384\], expected is simcc_y \[1, 133, 384\]"
    with pytest.raises(WeightsError, match=message):
        PoseDetector(boxes, free._replace(runner=runner)).detect([frame])


def test_load_reads_the_files_where_they_belong(tmp_path):
    save_person_detector(tmp_path / "DWPose/yolox_l.onnx", size=SMALL)
    save_keypoint_network(tmp_path / "DWPose/dw-ll_ucoco_384.onnx", size=SMALL_CROP)
    frame, (joints,) = frame_with((20, 30, 200, 330))
    ((person,),) = PoseDetector.load(Places((tmp_path,)), "cpu").detect([frame])
    check_person(person, joints, tolerance=3)


def test_load_names_missing_files(tmp_path):
    with pytest.raises(InputError, match="yolox_l.onnx.*dw-ll_ucoco_384.onnx.*weights download"):
        PoseDetector.load(Places((tmp_path,)), "cpu")


def test_notes_are_said_once(networks):
    boxes, keypoints = (session._replace(note="on the CPU") for session in networks())
    assert PoseDetector(boxes, keypoints).notes == ("on the CPU",)
