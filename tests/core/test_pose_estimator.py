"""The built-in pose estimator: its networks, their ONNX files, and which detector is chosen."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from stableanimator_core.errors import InputError, PoseError, WeightsError
from stableanimator_core.models.pose_estimator import (
    BINS,
    DETECTOR_SIZE,
    KEYPOINT_SIZE,
    KeypointNet,
    PersonDetector,
    PoseEstimator,
)
from stableanimator_core.onnx_session import open_session
from stableanimator_core.pose import PoseDetector, detector, dwpose, extract_poses, which_detector
from stableanimator_core.weights import Places
from stableanimator_core.weights.pose_estimator import save_estimator

onnx = pytest.importorskip("onnx", reason="the package onnx, which writes the networks' files, is not installed")


@pytest.fixture(scope="module")
def net() -> PoseEstimator:
    """Untrained networks whose normalisations are no identities and whose outputs are no constants."""
    torch.manual_seed(3)
    net = PoseEstimator()
    torch.nn.init.normal_(net.keypoints.seen)
    net.train()
    with torch.no_grad():
        for _ in range(8):
            net.detector(255 * torch.rand(4, 3, *DETECTOR_SIZE))
            net.keypoints(torch.randn(4, 3, *KEYPOINT_SIZE))
    return net.eval()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    """Those networks as files."""
    folder = tmp_path_factory.mktemp("poses")
    save_estimator(net, folder)
    return folder


def test_outputs_are_those_that_dwpose_decodes(net):
    with torch.no_grad():
        raw = net.detector(torch.zeros(2, 3, *DETECTOR_SIZE)).numpy()
        x, y = net.keypoints(torch.zeros(2, 3, *KEYPOINT_SIZE))
    boxes, scores = dwpose.decode_boxes(raw[0], *DETECTOR_SIZE, 1.0)
    assert (boxes.shape, scores.shape) == ((1344, 4), (1344, 1))
    assert (raw[..., 5] == 1).all() and (raw[..., 4] > 0).all() and (raw[..., 4] < 1).all()
    assert (x.shape, y.shape) == ((2, 133, 2 * KEYPOINT_SIZE[1]), (2, 133, 2 * KEYPOINT_SIZE[0]))


def test_a_curves_peak_is_as_high_as_the_network_is_sure(net):
    crops = torch.randn(2, 3, *KEYPOINT_SIZE)
    with torch.no_grad():
        reading, (x, y) = net.keypoints.read(crops), net.keypoints(crops)
    points, score = dwpose.decode_simcc(x.numpy(), y.numpy())
    np.testing.assert_allclose(score, reading.seen.sigmoid().numpy(), atol=1e-6)
    assert score.std() > 0.01
    wanted = torch.stack([reading.x.argmax(-1), reading.y.argmax(-1)], dim=-1) / 2
    np.testing.assert_allclose(points, wanted.numpy())


def test_curves_begin_as_straight_lines_between_cells():
    cells = torch.arange(6.0).repeat(1, 2, 1)  # [B, K, n]
    with torch.no_grad():
        curve = KeypointNet(points=2)._curve(cells)
    assert curve.shape == (1, 2, 6 * BINS)
    steps = curve.diff()[..., BINS // 2 : -BINS // 2]  # the ends have no neighbour
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / BINS))


def test_a_cell_sees_its_own_place():
    """The grids' order and axes: what changes in one corner of the picture changes the cells there."""
    torch.manual_seed(0)
    finder = PersonDetector().eval()
    finder.coarse[-1] = torch.nn.Identity()  # sees everything everywhere
    picture = torch.full((1, 3, *DETECTOR_SIZE), 100.0)
    changed = picture.clone()
    changed[..., :8, -8:] = 255  # the upper right corner
    with torch.no_grad():
        away = (finder(changed) - finder(picture)).abs().amax((0, 2)).numpy()  # [A]
    cells, strides = dwpose.cell_grid(*DETECTOR_SIZE)
    place = (cells + 0.5) * strides
    fine = strides[:, 0] == 8
    nearest = place[fine][away[fine].argmax()]
    assert nearest[0] > 200 and nearest[1] < 56


def test_files_compute_what_the_networks_compute(net, folder):
    sessions = [open_session(folder / f"{key}.onnx", "cpu") for key in detector.FILES]
    assert [session.inputs[0][0] for session in sessions] == ["images", "input"]
    assert [name for session in sessions for name, _ in session.outputs] == ["output", "simcc_x", "simcc_y"]
    generator = torch.Generator().manual_seed(1)
    for batch in (1, 3):
        pictures = 255 * torch.rand(batch, 3, *DETECTOR_SIZE, generator=generator)
        crops = torch.randn(batch, 3, *KEYPOINT_SIZE, generator=generator)
        with torch.no_grad():
            wanted = [net.detector(pictures), *net.keypoints(crops)]
        found = [*sessions[0].run({"images": pictures.numpy()}), *sessions[1].run({"input": crops.numpy()})]
        for one, other in zip(found, wanted):
            assert one.shape == tuple(other.shape) and np.abs(one - other.numpy()).max() < 0.02  # half precision


def test_files_are_small_and_say_what_they_are(folder):
    assert sum(path.stat().st_size for path in folder.glob("*.onnx")) < 3.2e6
    for key in detector.FILES:
        model = onnx.load(folder / f"{key}.onnx")
        about = {entry.key: entry.value for entry in model.metadata_props}
        assert about["licence"] == "Apache-2.0" and key in about["name"]
        assert model.opset_import[0].version <= 17 and model.ir_version <= 8


def test_built_in_networks_run_as_dwpose(folder):
    found = PoseDetector.built_in(folder)
    assert found.notes == (detector.BUILT_IN_NOTE,)
    frames = [np.zeros((64, 64, 3), np.uint8)] * 3
    pictures = np.stack([dwpose.letterbox(frame, *DETECTOR_SIZE) for frame in frames])
    surest = open_session(folder / "person_detector.onnx", "cpu").run({"images": pictures})[0][0, :, 4].max()
    people = found.detect(frames, min_person_score=0.999 * float(surest))
    assert len(people) == 3 and people[0] and people[0][0].hands.shape == (2, 21, 3)
    assert found.detect(frames, min_person_score=0.99) == [[], [], []]
    with pytest.raises(PoseError, match="nobody found in any of 3 frames.*for people in photographs"):
        extract_poses(found, frames, min_person_score=0.99)


def test_missing_and_swapped_files_are_named(folder, tmp_path):
    with pytest.raises(WeightsError, match="person_detector.onnx: cannot be read"):
        PoseDetector.built_in(tmp_path)
    for one, other in (detector.FILES, detector.FILES[::-1]):
        (tmp_path / f"{one}.onnx").write_bytes((folder / f"{other}.onnx").read_bytes())
    with pytest.raises(WeightsError, match="not a YOLOX person detector"):
        PoseDetector.built_in(tmp_path)


def test_dwpose_comes_first(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "BUILT_IN", folder)
    nothing = Places((tmp_path / "models",))
    assert [which_detector(name, nothing) for name in detector.DETECTORS] == ["built-in", "dwpose", "built-in"]
    (tmp_path / "models" / "DWPose").mkdir(parents=True)
    for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"):
        assert which_detector("auto", nothing) == "built-in"  # one file is not enough
        (tmp_path / "models" / "DWPose" / name).write_bytes(b"onnx" * 300)
    assert which_detector("auto", nothing) == "dwpose" and which_detector("built-in", nothing) == "built-in"
    monkeypatch.setattr(detector, "BUILT_IN", tmp_path / "nowhere")
    assert which_detector("auto", Places((tmp_path / "empty",))) == "dwpose"  # whose files are then asked for
    with pytest.raises(PoseError, match="pose detector 'yolo' is unknown; choose from auto, dwpose, built-in"):
        which_detector("yolo", nothing)


def test_dwpose_is_never_replaced_when_it_is_asked_for(tmp_path):
    with pytest.raises(WeightsError, match="DWPose/yolox_l.onnx.*weights download poses"):
        PoseDetector.choose("dwpose", Places((tmp_path,)))


def test_writing_without_the_package_onnx(net, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        save_estimator(net, tmp_path)
