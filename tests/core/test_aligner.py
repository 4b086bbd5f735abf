"""The alignment network and method "learned": exact symmetries, missing joints, training, doubts, notes, weights."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_alignment import STANDING, person, placed
from torch import nn

from stableanimator_core.alignment import FITS, WITH_ALIGNER, align
from stableanimator_core.alignment.fits import MOST_DEGREES, MOST_GROWTH
from stableanimator_core.alignment.guidance import WINDOW, guide
from stableanimator_core.alignment.network import FIRST_FRAMES, MOST_FRAMES, AlignmentNet
from stableanimator_core.alignment.similarity import Similarity
from stableanimator_core.errors import InputError, PoseError, WeightsError
from stableanimator_core.keypoints import Poses
from stableanimator_core.weights.aligner import load_aligner, save_aligner

BODY = torch.from_numpy(STANDING).float()
LEGS = [9, 10, 12, 13]


def network(seed=0, **config):
    """A small network that does something: its last layer is not zero."""
    torch.manual_seed(seed)
    net = AlignmentNet(**{"width": 32, "layers": 1, "heads": 2, **config}).eval().requires_grad_(False)
    nn.init.normal_(net.to_correction[-1].weight, std=0.02)
    return net


def clips(batch=3, frames=9, seed=0, dtype=torch.float64):
    """Arguments of a network's forward: noisy walks with missing joints."""
    draw = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, 1, 1, 2, generator=draw) * 9 * torch.arange(frames)[:, None, None]
    driving = 300 * BODY + 100 + steps + 4 * torch.randn(batch, frames, 18, 2, generator=draw)
    reference = 500 * BODY + 40 + 20 * torch.randn(batch, 18, 2, generator=draw)
    seen = torch.rand(batch, frames, 18, generator=draw) > 0.3
    return driving.to(dtype), seen, reference.to(dtype), torch.rand(batch, 18, generator=draw) > 0.2


def constant(growth=1.0, degrees=0.0):
    """A network that corrects every clip alike."""
    net = network()
    nn.init.zeros_(net.to_correction[-1].weight)
    net.to_correction[-1].bias.copy_(torch.tensor([math.log(growth), math.radians(degrees), 0, 0]))
    return net


# --- the network ----------------------------------------------------------------------------------------------------


def test_starts_at_the_guidance():
    given = clips()
    guidance = guide(*given)
    for found, expected in zip(AlignmentNet()(*given).transform, guidance.pixels(guidance.base), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("config", [{}, {"use_guidance": False}, {"use_motion": False}])
@pytest.mark.parametrize("frames", [9, MOST_FRAMES + 20])
def test_guidance_that_is_known_already_changes_nothing(config, frames):
    net, given = network(**config), clips(batch=4, frames=frames)
    expected, guidance = net(*given).transform, net.guide(*given)
    for found, wanted in zip(net(*given, guidance).transform, expected, strict=True):
        assert torch.equal(found, wanted)
    some = slice(1, 3)
    for found, wanted in zip(
        net(*(part[some] for part in given), guidance.rows(some)).transform, expected, strict=True
    ):
        torch.testing.assert_close(found, wanted[some], rtol=1e-5, atol=1e-3)


def test_the_correction_comes_after_the_guidance_about_the_references_centre():
    given = clips()
    guidance = guide(*given)
    points, centre = given[0].flatten(1, 2), guidance.reference_place.centre
    scale, angle = torch.full((2, 3), 1.3, dtype=torch.float64) * torch.tensor([[1], [math.radians(10) / 1.3]])
    turn = Similarity.through(scale, angle, centre, centre)
    expected = turn.apply(guidance.pixels(guidance.base).apply(points))
    np.testing.assert_allclose(constant(1.3, 10)(*given).transform.apply(points), expected, atol=1e-3)


@pytest.mark.parametrize("config", [{}, {"use_guidance": False}, {"use_motion": False}])
def test_shifting_and_scaling_either_picture_moves_the_result_alone(config):
    net, (driving, seen, reference, shown) = network(**config), clips()
    shift = torch.tensor([3000.0, -700.0], dtype=torch.float64)
    moved = net(driving, seen, reference, shown).transform.apply(driving.flatten(1, 2))
    plain = guide(driving, seen, reference, shown)
    assert (moved - plain.pixels(plain.base).apply(driving.flatten(1, 2))).abs().max() > 1  # it corrects something
    other = 0.03 * driving + shift
    np.testing.assert_allclose(
        net(other, seen, reference, shown).transform.apply(other.flatten(1, 2)), moved, atol=1e-6
    )
    found = net(driving, seen, 5 * reference + shift, shown).transform.apply(driving.flatten(1, 2))
    np.testing.assert_allclose(found, 5 * moved + shift, atol=1e-5)


def test_coordinates_of_unseen_joints_are_not_read():
    net, (driving, seen, reference, shown) = network(), clips()
    expected = net(driving, seen, reference, shown).transform
    driving, reference = driving.masked_fill(~seen[..., None], -1e5), reference.masked_fill(~shown[..., None], math.nan)
    for found, part in zip(net(driving, seen, reference, shown).transform, expected, strict=True):
        torch.testing.assert_close(found, part, rtol=0, atol=0)


def test_an_unseen_joint_is_no_joint_at_the_centre():
    net, (driving, _, reference, shown) = network(), clips()
    seen = torch.ones(driving.shape[:3], dtype=torch.bool)
    guidance = guide(driving, seen, reference, shown)
    driving[..., 4, :] = guidance.driving_place.centre[:, None]
    at_centre = net(driving, seen, reference, shown).transform
    seen[..., 4] = False
    assert not torch.allclose(net(driving, seen, reference, shown).transform.scale, at_centre.scale, rtol=1e-4)


def test_a_batch_is_what_its_clips_are():
    net, given = network(), clips()
    together = net(*given).transform
    for index in range(3):
        alone = net(*(part[index : index + 1] for part in given)).transform
        np.testing.assert_allclose(alone.scale, together.scale[index : index + 1], rtol=1e-5)
        np.testing.assert_allclose(alone.translation, together.translation[index : index + 1], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("frames", [1, 2, 64, 65, 300])
def test_clips_of_any_length(frames):
    found = network()(*clips(2, frames, dtype=torch.float32)).transform
    assert found.scale.shape == (2,) and found.rotation.shape == (2, 2, 2) and found.translation.shape == (2, 2)
    assert all(part.isfinite().all() and part.dtype == torch.float32 for part in found)
    np.testing.assert_allclose(torch.linalg.det(found.rotation), 1, atol=1e-5)


def test_a_long_clip_is_read_at_its_beginning_and_evenly_after():
    index = AlignmentNet(32, 1, 2)._read_frames(500, torch.device("cpu"))
    assert len(index) == MOST_FRAMES and index[-1] == 499
    assert index[:FIRST_FRAMES].tolist() == list(range(FIRST_FRAMES))
    steps = index[FIRST_FRAMES:].diff()
    assert 8 <= steps.min() and steps.max() <= 10


def test_without_motion_later_frames_are_not_read():
    driving, seen, reference, shown = clips()
    for use_motion in (True, False):
        net = network(use_motion=use_motion)
        one = net(driving, seen, reference, shown).transform
        later = driving.clone()
        later[:, WINDOW:] += 50 * torch.randn(later[:, WINDOW:].shape, dtype=torch.float64)
        assert torch.equal(net(later, seen, reference, shown).transform.scale, one.scale) != use_motion


def test_without_guidance_there_is_less_to_learn_from():
    whole, plain = (sum(p.numel() for p in network(use_guidance=flag).parameters()) for flag in (True, False))
    assert plain < whole
    assert not any(key.startswith(("guidance", "read_guidance")) for key in network(use_guidance=False).state_dict())


@pytest.mark.parametrize("nothing", ["driver", "reference", "both"])
def test_nothing_seen_is_finite(nothing):
    driving, seen, reference, shown = clips()
    if nothing != "reference":
        seen = torch.zeros_like(seen)
    if nothing != "driver":
        shown = torch.zeros_like(shown)
    assert all(part.isfinite().all() for part in network()(driving, seen, reference, shown).transform)


def test_settings_that_make_no_network():
    with pytest.raises(ValueError, match="width 30, layers 1, heads 4: need 1 or more, and heads that divide width"):
        AlignmentNet(30, 1, 4)


def test_size_and_speed():
    net, given = AlignmentNet().eval(), clips(1, 32, dtype=torch.float32)
    assert 1e6 < sum(part.numel() for part in net.parameters()) < 2e6
    seconds = []
    with torch.inference_mode():
        for _ in range(12):
            start = time.process_time()  # of all cores, and of this process alone
            net(*given)
            seconds.append(time.process_time() - start)
    assert min(seconds) < 0.032  # a millisecond a frame


# --- training -------------------------------------------------------------------------------------------------------


def turned_pairs(batch, draw):
    """References seen from the side whose legs are folded up, and drivers who stand and face the camera: in truth the
    reference's body is as large as its trunk is long.
    Returns a forward's arguments, the driving poses without noise, the truth and the size.
    """
    size, middle = 200 + 400 * torch.rand(batch, 1, 1, generator=draw), 300 * torch.rand(batch, 1, 2, generator=draw)
    turned = BODY.expand(batch, 18, 2).clone()
    turned[..., 0] *= 0.1 + 0.3 * torch.rand(batch, 1, generator=draw)
    turned[:, LEGS, 1] = 0.5 + (turned[:, LEGS, 1] - 0.5) * (0.1 + 0.3 * torch.rand(batch, 1, generator=draw))
    clean = (250 * BODY + 90).expand(batch, 6, 18, 2)
    seen = torch.rand(batch, 6, 18, generator=draw) > 0.2
    driving = clean + 2 * torch.randn(batch, 6, 18, 2, generator=draw)
    shown = torch.rand(batch, 18, generator=draw) > 0.1
    return (driving, seen, size * turned + middle, shown), clean, size * BODY + middle, size


def distances(transform, pairs):
    _, clean, truth, size = pairs
    moved = transform.apply(clean.flatten(1, 2)).view_as(clean)
    return ((moved - truth[:, None]).norm(dim=-1) / size).mean((1, 2))


def test_training_beats_the_guidance_where_it_is_wrong():
    torch.manual_seed(0)
    net, draw = AlignmentNet(width=48, layers=1, heads=2), torch.Generator().manual_seed(1)
    adam = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(150):
        pairs = turned_pairs(32, draw)
        adam.zero_grad()
        distances(net(*pairs[0]).transform, pairs).mean().backward()
        adam.step()
    parts = [(name, part) for name, part in net.named_parameters() if not name.startswith("to_error")]
    idle = [name for name, part in parts if part.grad is None or not part.grad.any()]
    assert idle == ["guidance.fit.unknown"]  # every frame is fitted here
    pairs = turned_pairs(256, torch.Generator().manual_seed(2))
    guidance = guide(*pairs[0])
    with torch.no_grad():
        learned, svd = distances(net(*pairs[0]).transform, pairs), distances(guidance.pixels(guidance.base), pairs)
    assert learned.mean() < 0.7 * svd.mean()
    assert learned.quantile(0.95) < 0.7 * svd.quantile(0.95)


# --- align(..., "learned") ------------------------------------------------------------------------------------------


def clip(frames=12, step=5.0, **kwargs):
    walk = placed(size=200, x=100, y=50, **kwargs)[None] + np.arange(frames)[:, None, None] * (step, 0)
    return person(walk)


def hidden(poses, joints):
    """The same poses, in which these joints are not seen."""
    score = poses.body_score.copy()
    score[:, :, list(joints)] = 0
    return dataclasses.replace(poses, body_score=score)


def test_an_untrained_network_is_as_good_as_svd():
    reference = person(placed(size=400, x=300, y=20), width=640, height=480)
    found, svd = (align(clip(), reference, method, aligner=AlignmentNet(32, 1, 2)) for method in ("learned", "svd"))
    assert found.method == "learned" and found.notes == ()
    assert (found.poses.width, found.poses.height) == (640, 480)
    np.testing.assert_allclose(found.poses.body, svd.poses.body, atol=1e-6)
    np.testing.assert_allclose(found.residual, svd.residual, atol=1e-6)
    assert found.transform.scale.shape == (12,) and found.transform.scale.dtype == torch.float64


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_the_expected_error_is_told_of_the_clips_own_fit_alone(error):
    net = AlignmentNet(32, 1, 2)
    nn.init.constant_(net.to_error[-1].bias, math.log(error))
    found = align(clip(), person(placed(size=400, x=300, y=20)), "learned", aligner=net)
    assert found.expected_error == pytest.approx(error, rel=1e-4)
    assert found.notes == (), "a note would outlive what is done to the fit afterwards"
    assert align(clip(), person(placed(size=400, x=300, y=20)), "svd").expected_error is None


def test_everybody_and_every_part_take_the_first_persons_transform():
    rng = np.random.default_rng(2)
    first = clip(6)
    poses = dataclasses.replace(
        first,
        body=np.concatenate([first.body, first.body * 0.5 + 40], 1), body_score=np.ones((6, 2, 18)),
        face=rng.uniform(0, 500, (6, 2, 68, 2)), face_score=np.ones((6, 2, 68)),
        hands=rng.uniform(0, 500, (6, 2, 2, 21, 2)), hands_score=np.ones((6, 2, 2, 21)),
    )  # fmt: skip
    found = align(poses, person(placed(size=400)), "learned", aligner=constant(1.3, 10))
    for name in ("body", "face", "hands"):
        points = torch.from_numpy(getattr(poses, name).reshape(6, -1, 2))
        moved = getattr(found.poses, name).reshape(6, -1, 2)
        np.testing.assert_allclose(moved, found.transform.apply(points), atol=1e-9)
    assert found.notes == ("the clip is turned by 10 degrees",)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("method", WITH_ALIGNER)
def test_every_method_and_fit_moves_everybody_alike(method, fit):
    body = clip(8).body[:, 0]
    poses = dataclasses.replace(
        Poses.empty(8, 512, 512, people=2), body=np.stack([body, body[:, ::-1]], 1),
        body_score=np.stack([np.ones((8, 18)), np.full((8, 18), 0.1)], 1),
    )  # fmt: skip
    moved = align(poses, person(placed(size=400)), method, fit=fit, aligner=constant(1.2)).poses.body
    np.testing.assert_allclose(moved[:, 1], moved[:, 0, ::-1], atol=1e-6)


@pytest.mark.parametrize("method", ["affine", "homography"])
def test_richer_fits_stand_on_the_networks_place(method):
    reference = person(placed(size=400))
    plain, grown = (align(clip(), reference, method, aligner=constant(growth)) for growth in (1.0, 1.5))
    spread = [np.std(found.poses.body[0, 0], axis=0) for found in (plain, grown)]
    np.testing.assert_allclose(spread[1] / spread[0], 1.5, rtol=0.05)


def test_smooth_keeps_the_networks_correction():
    found = align(clip(30), person(placed(size=400)), "learned", fit="smooth", aligner=constant(1.5)).transform
    np.testing.assert_allclose(found.scale, 3, rtol=1e-4)


def test_works_under_inference_mode_and_needs_no_gradient():
    with torch.inference_mode():
        inside = align(clip(), person(placed(size=400)), "learned", aligner=network())
    outside = align(clip(), person(placed(size=400)), "learned", aligner=network().requires_grad_(True))
    np.testing.assert_allclose(inside.poses.body, outside.poses.body, atol=1e-3)
    assert not outside.transform.scale.requires_grad


def test_no_shared_joint_is_no_error():
    driving, reference = hidden(clip(), [*range(8), *range(14, 18)]), hidden(person(placed()), range(6, 14))
    with pytest.raises(PoseError, match="0 of 18 joints"):
        align(driving, reference, "svd")
    found = align(driving, reference, "learned", aligner=network())
    assert np.isfinite(found.poses.body).all() and np.isnan(found.residual).all()
    assert found.notes[0].startswith("no joint is shared with the reference")


@pytest.mark.parametrize(
    ("net", "doubt"),
    [
        (constant(1.1 * MOST_GROWTH), "3.3 times the SVD's size"),
        (constant(0.9 / MOST_GROWTH), "0.3 times the SVD's size"),
        (constant(degrees=MOST_DEGREES + 2), "37 degrees from the SVD's"),
        (constant(degrees=-MOST_DEGREES - 2), "-37 degrees from the SVD's"),
        (constant(math.nan), "it is not finite"),
        (constant(1e-45), "3.3e-45"),
    ],
)  # fmt: skip
def test_an_implausible_answer_is_replaced_and_said_so(net, doubt):
    reference = person(placed(size=400))
    found, svd = align(clip(), reference, "learned", aligner=net), align(clip(), reference)
    if "e-" not in doubt:
        assert found.notes == (f"the network's answer is not plausible ({doubt}): the SVD's fit is used",)
    np.testing.assert_allclose(found.poses.body, svd.poses.body, atol=1e-6)
    assert found.expected_error is None


def test_a_plausible_answer_is_kept():
    reference = person(placed(size=400))
    found = align(clip(), reference, "learned", aligner=constant(0.9 * MOST_GROWTH, MOST_DEGREES - 2))
    np.testing.assert_allclose(found.transform.scale, 2 * 0.9 * MOST_GROWTH, rtol=1e-5)
    assert "the clip is turned by 33 degrees" in found.notes
    assert not any("not plausible" in note for note in found.notes)


def test_per_frame_follows_the_frames_own_fits():
    reference = person(placed(size=400, x=60, y=20))
    found = align(clip(), reference, "learned", fit="frames", aligner=AlignmentNet(32, 1, 2))
    np.testing.assert_allclose(found.poses.body[:, 0], np.repeat(reference.body[0], 12, 0), atol=1e-6)
    assert found.notes == ()


def test_per_frame_takes_the_nearest_fit_where_few_joints_are_seen():
    score = np.ones((12, 18))
    score[4:6, 1:] = 0
    driving = person(clip().body[:, 0], score)
    found, whole = (
        align(poses, person(placed(size=400)), "learned", fit="frames", aligner=constant(1.5)).transform
        for poses in (driving, clip())
    )
    np.testing.assert_allclose(found.translation[[4, 5]], found.translation[[3, 6]])
    np.testing.assert_allclose(found.translation[6:], whole.translation[6:], atol=1e-3)
    np.testing.assert_allclose(found.scale, 3, rtol=1e-5)


def test_per_frame_without_shared_joints_says_so():
    driving, reference = hidden(clip(), range(8)), hidden(person(placed()), range(8, 18))
    found = align(driving, reference, "learned", fit="frames", aligner=network())
    assert found.notes[-1] == "fit frames has no effect: no frame shares two joints with the reference"


# --- notes ----------------------------------------------------------------------------------------------------------


def notes(driving, reference):
    return align(driving, reference, "learned", aligner=AlignmentNet(32, 1, 2)).notes


def seated():
    body = placed(size=400)
    body[[9, 12]] = body[[8, 11]] + (0, 30)
    body[[10, 13]] = body[[9, 12]] + (0, 85)
    return person(body)


@pytest.mark.parametrize(
    ("joints", "expected"),
    [
        (range(8, 14), "only the upper body is visible in the reference"),
        ([3, 4, 6, 7, *range(8, 14)], "only head and shoulders are visible in the reference"),
        ([1, 2, 3, 4, 5, 6, 7, *range(8, 14)], "only the head is visible in the reference"),
        ([0, 1, 3, 4, 6, 7, *range(8, 18)], "only the shoulders are visible in the reference"),
        ([9, 10, 12, 13], None),
    ],
)  # fmt: skip
def test_what_is_cut_off(joints, expected):
    reference = person(placed(size=400))
    found = notes(clip(), hidden(reference, joints))
    assert (expected in found) if expected else found == ()
    found = notes(hidden(clip(), joints), reference)
    assert (expected.replace("reference", "driving clip") in found) if expected else found == ()


def test_few_shared_joints():
    lonely = set(range(18)) - {1}
    assert "only 1 joint is shared with the reference: check the result" in notes(clip(), hidden(clip(), lonely))
    few = set(range(18)) - {1, 2, 5, 8}
    assert "only 4 joints are shared with the reference: check the result" in notes(clip(), hidden(clip(), few))


def test_somebody_sits():
    standing, sitting = person(placed(size=400)), seated()
    assert "the reference sits or crouches, the driver stands: check the size" in notes(clip(), sitting)
    assert "the driver sits or crouches, the reference stands: check the size" in notes(sitting, standing)
    assert not any("sits" in note for note in notes(sitting, sitting))
    feetless = [10, 13]
    assert any("the reference sits" in note for note in notes(clip(), hidden(sitting, feetless)))
    assert not any("sits" in note for note in notes(clip(), hidden(sitting, LEGS)))
    tall = placed(size=200)
    tall[LEGS, 1] += tall[LEGS, 1] - tall[8, 1]
    assert not any("sits" in note for note in notes(person(tall), standing))


def test_somebody_is_seen_from_behind():
    front, back = person(placed(size=400)), person(placed(size=400) * (-1, 1) + (500, 0))
    assert notes(clip(), back)[:1] == ("the reference is seen from behind, the driver from the front",)
    assert notes(back, front)[:1] == ("the driver is seen from behind, the reference from the front",)
    assert not any("behind" in note for note in notes(back, back))


# --- errors and weights ---------------------------------------------------------------------------------------------


def test_a_network_is_needed():
    with pytest.raises(InputError, match="alignment 'learned' needs a trained network, none was given; load one or"):
        align(clip(), clip(), "learned")


def test_nobody_there():
    with pytest.raises(PoseError, match="reference poses: no body joint of person 0 above min_score 0.3"):
        align(clip(), hidden(clip(), range(18)), "learned", aligner=network())


@pytest.mark.parametrize("config", [{}, {"use_guidance": False, "use_motion": False}])
def test_weights_come_back_in_single_precision(tmp_path, config):
    net = network(**config)
    save_aligner(net, tmp_path / "new" / "aligner")
    with torch.inference_mode():
        back = load_aligner(tmp_path / "new" / "aligner")
    assert back.config == net.config and not back.training
    for name, part in back.state_dict().items():
        assert part.dtype == torch.float32 and not part.is_inference()
        torch.testing.assert_close(part, net.state_dict()[name], rtol=1e-3, atol=1e-6)
    stored = load_file(tmp_path / "new" / "aligner" / "aligner.safetensors")
    assert {part.dtype for part in stored.values()} == {torch.float16}
    assert not any(part.requires_grad for part in back.parameters())


@pytest.fixture
def folder(tmp_path):
    save_aligner(network(), tmp_path)
    return tmp_path


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json: missing; give the folder of an alignment network"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not the configuration of an alignment network"),
        (lambda f: (f / "config.json").write_text("[3]"), r"config\.json: not the configuration of an alignment"),
        (lambda f: rewrite(f, format=9), r"config\.json: format 9, this version reads 1; update"),
        (lambda f: rewrite(f, width=31), r"config\.json: its settings make no alignment network: width 31, layers 1"),
        (lambda f: rewrite(f, depth=3), r"config\.json: its settings make no alignment network: .*'depth'"),
        (lambda f: rewrite(f, width="wide"), r"config\.json: its settings make no alignment network: "),
        (lambda f: rewrite(f, width=64), r"aligner\.safetensors: .* these weights belong to another model"),
        (lambda f: rewrite(f, use_guidance=False), r"aligner\.safetensors: .* these weights belong to another model"),
        (lambda f: (f / "aligner.safetensors").unlink(), r"aligner\.safetensors: missing; copy the model folder again"),
        (lambda f: (f / "aligner.safetensors").write_bytes(b"none"), r"aligner\.safetensors: damaged"),
        (lambda f: save_file({"a": torch.ones(1)}, f / "aligner.safetensors"), "tensors are missing, unknown or of"),
    ],
)
def test_a_folder_that_holds_no_network(folder, damage, message):
    damage(folder)
    with pytest.raises(WeightsError, match=message) as error:
        load_aligner(folder)
    assert "\n" not in str(error.value)


def test_similarity_of_a_network_is_one_per_clip():
    assert isinstance(network()(*clips()).transform, Similarity)
