"""From one picture and a driving motion to a video, on a tiny model with random weights."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stableanimator_core import pipeline
from stableanimator_core.alignment import align
from stableanimator_core.denoiser import HALVES_APART
from stableanimator_core.errors import FaceError, InputError, WeightsError
from stableanimator_core.face import DetectedFace, FaceBoxes, face_boxes
from stableanimator_core.face.template import TEMPLATE
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.keypoints import Poses
from stableanimator_core.pipeline import (
    Animation,
    Hooks,
    SamplingConfig,
    StableAnimator,
    find_face,
    from_uint8,
    model_hjb,
    pick_device,
    pick_dtype,
    sample,
    to_uint8,
)
from stableanimator_core.pose.draw import draw_poses
from stableanimator_core.trail import Trail
from stableanimator_core.video import read_image
from stableanimator_core.weights import V1_CONFIG, Places, load_models, read_config

OFF = HJBConfig(iterations=0)


@pytest.fixture(scope="module")
def animator(tiny_model):
    """The tiny model with every zero-initialised projection woken up, so that pose and face do matter."""
    models = load_models(tiny_model)
    torch.manual_seed(7)
    for weight in (models.pose_net.final_proj.weight, models.face_encoder.fusion_model.proj_out.weight):
        torch.nn.init.normal_(weight, std=0.5)
    return StableAnimator(models)


@pytest.fixture
def reference(material):
    return read_image(material / "reference.png")


@pytest.fixture
def reference_pose(material):
    return Poses.load(material / "reference.json")


@pytest.fixture
def driving(material):
    return Poses.load(material / "driving.json")


@pytest.fixture
def animate(animator, reference, reference_pose, driving):
    """animator.animate on the material, two frames unless `poses` are given."""

    def call(poses: Poses | None = None, **settings) -> Animation:
        poses = driving.slice(0, 2) if poses is None else poses
        return animator.animate(reference, poses, reference_pose, **settings)

    return call


# --- the result -----------------------------------------------------------------------------------------------------


def test_what_comes_out(animate, driving):
    made = animate(driving)
    assert made.frames.shape == made.pose_images.shape == (3, 64, 64, 3)
    assert made.frames.dtype == made.pose_images.dtype == np.uint8
    assert (made.poses.frames, made.poses.width, made.poses.height) == (3, 64, 64)
    assert made.csim.shape == (3,) and np.isfinite(made.csim).all() and np.abs(made.csim).max() <= 1.001
    assert made.judge == "judge"
    assert made.seconds > 0
    np.testing.assert_array_equal(made.pose_images, draw_poses(made.poses, 64, 64, canvas_short_side=128))


def test_the_seed_alone_makes_the_noise(animate):
    one, again, other = (animate(seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.frames, again.frames)
    np.testing.assert_array_equal(one.csim, again.csim)
    assert (one.frames != other.frames).any()


def test_the_global_generator_is_neither_used_nor_moved(animate):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = animate(hjb=OFF)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    np.testing.assert_array_equal(animate(hjb=OFF).frames, one.frames)


def test_no_iteration_is_hjb_off(animate, animator):
    seen = []
    off = animate(hjb=OFF, hooks=Hooks(on_identity=seen.append))
    assert not seen
    never = animate(hjb=HJBConfig(iterations=0, first_step=0, last_step=1, lr=9.0, decode="full", scope="all"))
    np.testing.assert_array_equal(off.frames, never.frames)
    on = animate(hjb=HJBConfig(iterations=1, first_step=0, last_step=1, lr=0.5))
    assert (on.frames != off.frames).any()


def test_the_models_own_hjb_is_the_default(animate, animator):
    seen = []
    animate(hooks=Hooks(on_identity=lambda like: seen.append(like[:2])))
    assert seen == [(1, 0)], "one iteration in the second of two steps"


def test_identity_off(animate):
    seen = []
    made = animate(identity=False, hooks=Hooks(on_identity=seen.append))
    assert "identity path off: no face was given to the model and none was optimised" in made.notes
    assert made.judge == "no face"
    assert np.isnan(made.csim).all()
    assert not seen
    assert (made.frames != animate(hjb=OFF).frames).any(), "the face tokens matter"


def test_identity_off_runs_no_face_branch(animator, animate):
    calls, adapters = [], animator.models.unet.id_adapters()
    hooks = [adapter.id_to_v.register_forward_hook(lambda *args: calls.append(1)) for adapter in adapters]
    try:
        animate(identity=False)
        assert not calls
        animate(hjb=OFF)
        assert calls
    finally:
        for hook in hooks:
            hook.remove()


def test_a_picture_without_a_face_switches_identity_off_and_says_so(animator, reference, reference_pose, driving):
    turned = replace(reference_pose, body_score=reference_pose.body_score.copy())
    turned.body_score[:, :, 0] = 0
    made = animator.animate(reference, driving.slice(0, 1), turned)
    assert any("reference_pose: no face in its keypoints" in note for note in made.notes)
    assert any("identity path off" in note for note in made.notes)
    assert made.judge == "no face" and np.isnan(made.csim).all()
    off = animator.animate(reference, driving.slice(0, 1), turned, identity=False)
    np.testing.assert_array_equal(made.frames, off.frames)


def test_poses_of_another_shape_and_several_people_are_pointed_out(animator, reference, driving):
    settings = SamplingConfig.for_model(animator.models.config)
    wide = replace(driving.slice(0, 1), width=128)
    notes = sample(animator.models, reference, wide, None, settings, OFF).notes
    assert any("bodies will be misplaced" in note for note in notes)
    two = Poses.from_openpose([{**frame, "people": frame["people"] * 2} for frame in driving.slice(0, 1).to_openpose()])
    notes = sample(animator.models, reference, two, None, settings, OFF).notes
    assert any("2 people" in note and "follow person 0" in note for note in notes)


@pytest.mark.parametrize(("error", "said"), [(0.05, False), (0.2, True), (None, False)])
def test_a_doubtful_fit_is_pointed_out(animate, monkeypatch, error, said):
    def fitted(*given, **options):
        return replace(align(*given, **options), expected_error=error)

    monkeypatch.setattr(pipeline, "align", fitted)
    assert any("expected fit: doubtful, off by about 20 %" in note for note in animate(hjb=OFF).notes) == said


def test_one_given_end_of_the_hjb_range_moves_the_other(animator):
    config = animator.models.config
    last = model_hjb(config, 20, first_step=19)
    assert (last.first_step, last.last_step) == (19, 19)
    first = model_hjb(config, 20, last_step=0)
    assert (first.first_step, first.last_step) == (0, 0)


def test_a_window_alone_keeps_the_models_share_of_overlap(animator):
    config = animator.models.config
    settings = SamplingConfig.for_model(config, context_window=2)
    assert settings.context_overlap < 2


def test_frames_without_a_face_are_counted(animate, driving):
    driving.body_score[1, 0, 0] = 0
    made = animate(driving)
    assert "1 of 3 frames show no face; they are neither optimised nor scored" in made.notes
    assert np.isnan(made.csim).tolist() == [False, True, False]


def test_a_model_without_a_judge_says_so(animator, reference, reference_pose, driving):
    alone = StableAnimator(replace(animator.models, face_judge=None))
    made = alone.animate(reference, driving.slice(0, 1), reference_pose, hjb=OFF)
    assert made.judge == "embedder"
    assert np.isfinite(made.csim).all()


def test_the_pose_steers(animate, driving):
    poses = driving.slice(0, 2)
    moved = poses.transformed(lambda points: points + [12, 0])
    assert (animate(poses, align_method="none").frames != animate(moved, align_method="none").frames).any()


# --- lengths and sizes ----------------------------------------------------------------------------------------------


def test_one_frame(animate, driving):
    made = animate(driving.slice(0, 1))
    assert made.frames.shape == (1, 64, 64, 3)
    assert made.csim.shape == (1,)


def test_more_frames_than_the_window(animate, stick_figure):
    calls = []
    made = animate(
        Poses.from_openpose(stick_figure(7, step=1)), hjb=OFF, steps=1, hooks=Hooks(on_forward=lambda: calls.append(1))
    )
    assert made.frames.shape == (7, 64, 64, 3)
    assert len(calls) == 3  # windows of 4 that overlap by 2
    assert made.frames.std((1, 2, 3)).min() > 0


def test_another_size_than_the_models(animate):
    made = animate(width=96, height=64, steps=1)
    assert made.frames.shape == (2, 64, 96, 3)
    assert (made.poses.width, made.poses.height) == (96, 64)


def test_the_pose_canvas_need_not_be_the_pictures(animator, reference, reference_pose, driving):
    """Keypoints on a larger canvas of the same aspect are the same keypoints."""
    poses = driving.slice(0, 2)
    made = animator.animate(reference, poses, reference_pose, hjb=OFF, align_method="none")
    large = animator.animate(
        reference, poses.resized(640, 640), reference_pose.resized(320, 320), hjb=OFF, align_method="none"
    )
    np.testing.assert_allclose(large.poses.body, made.poses.body, atol=1e-9)
    np.testing.assert_array_equal(large.frames, made.frames)


def test_a_picture_of_another_aspect_is_cropped(animator, reference, reference_pose, driving):
    """Bars left and right of the picture are cropped away again, for the picture and for its keypoints."""
    wide = np.concatenate([reference[:, :16] * 0, reference, reference[:, :16] * 0], axis=1)
    pose = reference_pose.transformed(lambda points: points + [16, 0], width=96)
    made = animator.animate(reference, driving.slice(0, 2), reference_pose, hjb=OFF, identity=False)
    cropped = animator.animate(wide, driving.slice(0, 2), pose, hjb=OFF, identity=False, width=64, height=64)
    np.testing.assert_allclose(cropped.poses.body, made.poses.body, atol=1e-6)
    np.testing.assert_allclose(cropped.frames.astype(int), made.frames, atol=1)


def test_inside_inference_mode(animate):
    with torch.inference_mode():
        inside = animate(seed=2)
    np.testing.assert_array_equal(inside.frames, animate(seed=2).frames)


def test_no_gradient_is_kept(animate, animator):
    animate()
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for part in animator.models.parts().values() for weight in part.parameters())


def test_what_a_trail_kept_is_not_run_again_but_counts(animate):
    """The second run begins with the step that it changes; its time is what it would take alone."""
    trail, calls = Trail(), []
    hooks = Hooks(on_forward=lambda: calls.append(time.sleep(0.3)))
    hjb = HJBConfig(iterations=1, first_step=3, last_step=3, lr=0.5)
    plain = animate(hjb=OFF, steps=4, trail=trail, hooks=hooks)
    assert len(calls) == 4
    start = time.monotonic()
    made = animate(hjb=hjb, steps=4, trail=trail, hooks=hooks)
    took = time.monotonic() - start
    assert len(calls) == 5
    assert made.seconds > took + 0.8
    whole = animate(hjb=hjb, steps=4)
    np.testing.assert_array_equal(made.frames, whole.frames)
    assert (made.frames != plain.frames).any()


def test_what_happened_to_memory_is_noted(animate, animator, monkeypatch):
    unet = animator.models.unet.forward

    def small_card(sample, *others, **more):
        if len(sample) > 1:
            raise torch.OutOfMemoryError("no room")
        return unet(sample, *others, **more)

    whole = animate(hjb=OFF)
    monkeypatch.setattr(animator.models.unet, "forward", small_card)
    made = animate(hjb=OFF)
    assert HALVES_APART in made.notes and HALVES_APART not in whole.notes
    np.testing.assert_allclose(made.frames.astype(int), whole.frames, atol=1)


# --- hooks ----------------------------------------------------------------------------------------------------------


def test_hooks_are_called(animate):
    steps, iterations, forwards, decoded = [], [], [], []
    animate(
        hjb=HJBConfig(iterations=2, first_step=0, last_step=1),
        hooks=Hooks(
            on_step=lambda i, x0, x, n: steps.append((i, tuple(x0.shape), tuple(x.shape), n)),
            on_identity=lambda like: iterations.append((like.step, like.iteration, len(like.csim))),
            on_forward=lambda: forwards.append(1),
            on_decode=lambda done, frames: decoded.append((done, frames)),
        ),
    )
    assert steps == [(i, (2, 4, 8, 8), (2, 4, 8, 8), 2) for i in (0, 1)]
    assert iterations == [(i, k, 2) for i in (0, 1) for k in (0, 1)]
    assert len(forwards) == 2
    assert decoded[-1] == (2, 2)


@pytest.mark.parametrize("hook", ["on_step", "on_identity", "on_forward", "on_decode"])
def test_an_exception_in_a_hook_stops_the_run(animate, hook):
    calls = []

    def stop(*args):
        calls.append(args)
        raise InterruptedError(hook)

    with pytest.raises(InterruptedError, match=hook):
        animate(hjb=HJBConfig(iterations=1, first_step=0, last_step=0), hooks=Hooks(**{hook: stop}))
    assert len(calls) == 1


def test_a_stopped_run_leaves_the_model_as_it_was(animate):
    before = animate(hjb=OFF)

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        animate(hjb=OFF, hooks=Hooks(on_forward=stop))
    np.testing.assert_array_equal(animate(hjb=OFF).frames, before.frames)


# --- sample, as the nodes call it -----------------------------------------------------------------------------------


def test_sample_takes_drawn_poses(animator, reference, reference_pose, driving):
    models = animator.models
    settings = SamplingConfig.for_model(models.config)
    made = sample(models, reference, driving, None, settings, OFF)
    assert made.latents.shape == (3, 4, 8, 8)
    again = sample(models, reference, driving, None, settings, OFF, pose_images=made.pose_images)
    assert again.pose_images is made.pose_images
    assert again.latents.equal(made.latents)
    blank = sample(models, reference, driving, None, settings, OFF, pose_images=np.zeros_like(made.pose_images))
    assert not blank.latents.equal(made.latents)


def test_find_face(animator, reference, reference_pose):
    with torch.no_grad():
        face = find_face(animator.models, reference, reference_pose)
    assert face.embedding.shape == (16,)
    assert face.box.shape == (4,)


# --- models whose embedder takes aligned faces ----------------------------------------------------------------------


@pytest.fixture
def aligned_animator(animator):
    """The same networks, told that the embedder wants ArcFace's crops."""
    return StableAnimator(replace(animator.models, config=replace(animator.models.config, face_crop="arcface")))


class OneFace:
    """A detector that finds the same faces in every picture."""

    def __init__(self, *faces: DetectedFace):
        self.faces, self.shown = faces, []

    def detect(self, picture):
        self.shown.append(picture)
        return list(self.faces)


def face_at(x: float, y: float, side: float) -> DetectedFace:
    points = (np.array(TEMPLATE) - 56) * side / 112 + (x, y)
    return DetectedFace(np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2]), points, 0.9)


@pytest.fixture
def large_reference(reference, reference_pose):
    """The reference four times as large: its face is 64 px across."""
    return reference.repeat(4, axis=0).repeat(4, axis=1), reference_pose.resized(256, 256)


def test_a_detected_face(aligned_animator, large_reference):
    picture, pose = large_reference
    head = pose.body[0, 0, 0]
    detector = OneFace(face_at(200, 200, 80), face_at(*head, 50))
    with torch.no_grad():
        largest = find_face(aligned_animator.models, picture, detector=detector)
        own = find_face(aligned_animator.models, picture, pose, detector=detector)
        chosen = find_face(aligned_animator.models, picture, pose, detector=detector, choose=1)
    np.testing.assert_array_equal(detector.shown[0], picture)
    assert largest.box.tolist() == pytest.approx([160.5, 160.5, 240.5, 240.5], abs=1)
    assert own.box[0] == pytest.approx(head[0] - 24.5, abs=1)
    assert chosen.embedding.equal(largest.embedding) and not own.embedding.equal(largest.embedding)
    assert own.template.shape == (2, 3)


def test_a_model_of_upright_boxes_never_asks_the_detector(animator, reference, reference_pose):
    detector = OneFace(face_at(30, 30, 40))
    with torch.no_grad():
        face = find_face(animator.models, reference, reference_pose, detector=detector)
        assert face.box.equal(find_face(animator.models, reference, reference_pose).box)
    assert not detector.shown and face.template is None


def test_neither_pose_nor_detector(animator, aligned_animator, reference):
    with pytest.raises(FaceError, match="model 'tiny' finds the face through its pose; give the picture's pose"):
        find_face(animator.models, reference, detector=OneFace())
    with pytest.raises(FaceError, match="finds the face through its pose or a face detector; give the picture's pose"):
        find_face(aligned_animator.models, reference)


def test_aligned_faces_from_end_to_end(aligned_animator, large_reference, driving):
    """The same alignment on the reference and on the output's frames, with HJB and with the judge."""
    picture, pose = large_reference
    pose.body[0, 0, [14, 15]] += [(0, -6), (0, 6)]  # the head leans
    seen = []
    hooks = Hooks(on_identity=lambda like: seen.append(like.csim))
    made = aligned_animator.animate(
        picture, driving.slice(0, 2), pose, face_detector=OneFace(face_at(*pose.body[0, 0, 0], 60)), hooks=hooks
    )
    assert np.isfinite(made.csim).all() and len(seen) == 1 and seen[0].isfinite().all()
    assert made.judge == "judge"
    settings = SamplingConfig.for_model(aligned_animator.models.config)
    with torch.no_grad():
        faces = sample(aligned_animator.models, picture, made.poses, None, settings, OFF).faces
    expected = face_boxes(made.poses, scale=1.5, crop="arcface")
    torch.testing.assert_close(faces.templates, expected.templates)


def test_the_reference_as_video_scores_one_when_aligned(aligned_animator, large_reference):
    pose = large_reference[1]
    pose.body[0, 0, [14, 15]] += [(-2, -8), (2, 8)]  # the head leans
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    with torch.no_grad():
        face = find_face(aligned_animator.models, picture, pose)
        faces = face_boxes(pose, scale=1.5, crop="arcface")
        for models in (aligned_animator.models, replace(aligned_animator.models, face_judge=None)):
            judge = StableAnimator(models).judge_identity
            name, csim = judge(from_uint8(picture)[None], faces, picture, face)
            assert csim.tolist() == [pytest.approx(1, abs=1e-6)]
            upright = judge(from_uint8(picture)[None], faces._replace(templates=None), picture, face)[1]
            assert upright.item() < 1 - 1e-5, "the crop matters"
    assert name == "embedder"


def test_an_unusable_face_becomes_a_note(aligned_animator, large_reference, driving):
    picture, pose = large_reference
    for detector, reason in (
        (OneFace(), "no face found in the picture (people in its pose: 1)"),
        (OneFace(face_at(*pose.body[0, 0, 0], 20)), "the face is too small, 20 px across"),
        (OneFace(face_at(40, 240, 40)), "pose and picture disagree"),
    ):
        made = aligned_animator.animate(picture, driving.slice(0, 1), pose, face_detector=detector)
        assert any(reason in note for note in made.notes)
        assert any("identity path off" in note for note in made.notes)
        assert np.isnan(made.csim).all() and made.judge == "no face"


# --- settings and their faults --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tiny_model):
    return read_config(tiny_model)


def test_settings_are_the_models_unless_given(config):
    own = SamplingConfig.for_model(config, steps=None)
    assert own == SamplingConfig(64, 64, 2, (1.5, 1.5), 4, 2, 0)
    assert SamplingConfig.for_model(config, steps=5, seed=9) == replace(own, steps=5, seed=9)


@pytest.mark.parametrize(
    "width, height, near",
    [(60, 64, "64 x 64"), (64, 90, "64 x 96"), (100, 100, "96 x 96"), (10, 64, "32 x 64"), (0, 64, "32 x 64")],
)
def test_size_that_is_no_multiple(config, width, height, near):
    with pytest.raises(InputError) as error:
        SamplingConfig.for_model(config, width=width, height=height)
    assert str(error.value) == f"size {width} x {height}: model 'tiny' needs multiples of 32; take {near}"
    suggested = [int(side) for side in near.split(" x ")]
    SamplingConfig.for_model(config, width=suggested[0], height=suggested[1])


def test_no_steps(config):
    for steps in (0, -3):
        with pytest.raises(InputError, match=f"steps {steps}: sampling needs at least 1 step"):
            SamplingConfig.for_model(config, steps=steps)


def test_no_frames(animate, driving):
    with pytest.raises(InputError, match="no frames; give at least one"):
        animate(driving.slice(0, 0), align_method="none")
    with pytest.raises(InputError):
        animate(driving.slice(0, 0))


def test_windows_that_cannot_be(animate, driving):
    with pytest.raises(InputError, match="context window 4 with overlap 4"):
        animate(driving, context_overlap=4)
    with pytest.raises(InputError, match="context window 1 with overlap 0"):
        animate(driving, context_window=1, context_overlap=0)


def test_hjb_steps_after_the_last(animate):
    with pytest.raises(InputError, match="hjb-steps 2:9 start after the last sampling step, 1"):
        animate(hjb=HJBConfig(first_step=2))


def test_unknown_alignment(animate):
    with pytest.raises(InputError, match="alignment 'magic' is unknown"):
        animate(align_method="magic")


def test_model_hjb_is_stretched_to_the_steps(config):
    config = replace(config, steps=15, hjb={"iterations": 4, "first_step": 6, "last_step": 11, "lr": 0.1})
    assert model_hjb(config, 15) == HJBConfig(4, 6, 11, 0.1)
    assert model_hjb(config, 30) == HJBConfig(4, 12, 23, 0.1)
    assert model_hjb(config, 5) == HJBConfig(4, 2, 3, 0.1)
    assert model_hjb(config, 15, iterations=9, lr=None) == HJBConfig(9, 6, 11, 0.1)
    for steps in range(1, 60):
        made = model_hjb(config, steps)
        assert 0 <= made.first_step <= made.last_step < steps


def test_unknown_device():
    for device in ("toaster", "cuda:99", ""):
        with pytest.raises(InputError, match=f"device '{device}' can't be used: .*; try auto or cpu") as error:
            pick_device(device)
        assert "\n" not in str(error.value)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


def test_only_big_models_on_an_nvidia_gpu_are_half(config):
    big = replace(config, width=512)
    for device, expected in (("cuda", torch.float16), ("cpu", torch.float32), ("mps", torch.float32)):
        assert pick_dtype(big, torch.device(device)) == expected
        assert pick_dtype(config, torch.device(device)) == torch.float32
    assert pick_dtype(V1_CONFIG, torch.device("cuda:1")) == torch.float16


def test_load_picks_the_dtype_unless_it_is_given(tiny_model, tmp_path, monkeypatch):
    calls = []

    def load(*args, **settings):
        calls.append((args, settings))
        return SimpleNamespace(taking_turns=lambda: "networks that take turns")

    monkeypatch.setattr(pipeline, "load_models", load)
    monkeypatch.setattr(pipeline, "pick_device", torch.device)
    places = Places((tmp_path,))
    (tmp_path / "Animation").mkdir()
    assert StableAnimator.load("v1", device="cuda", places=places).models == "networks that take turns"
    StableAnimator.load("v1", device="cuda", dtype=torch.bfloat16)
    StableAnimator.load(tiny_model, device="cuda")
    assert [settings["dtype"] for _, settings in calls] == [torch.float16, torch.bfloat16, torch.float32]
    assert calls[0] == (("v1",), {"device": torch.device("cuda"), "dtype": torch.float16, "places": places})


def test_load(tiny_model):
    assert StableAnimator.load(tiny_model, device="cpu").models.config.name == "tiny"
    with pytest.raises(WeightsError, match="unknown model 'nothing'"):
        StableAnimator.load("nothing", device="cpu")
    with pytest.raises(InputError, match="device 'toaster' can't be used"):
        StableAnimator.load(tiny_model, device="toaster")


# --- pixels ---------------------------------------------------------------------------------------------------------


def test_pixels_make_the_round_trip():
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    there = from_uint8(picture)
    assert there.min() == -1 and there.max() == 1
    np.testing.assert_array_equal(to_uint8(there[None])[0], picture)
    assert to_uint8(torch.tensor([-7.0, 7, 0]).view(1, 3, 1, 1)).tolist() == [[[[0, 255, 128]]]]


def test_judge_scores_the_reference_itself_as_one(animator, reference, reference_pose):
    boxes = face_boxes(reference_pose, scale=1.5)
    video = from_uint8(reference)[None]
    with torch.no_grad():
        face = find_face(animator.models, reference, reference_pose)
        name, csim = animator.judge_identity(video, boxes, reference, face)
        nobody = FaceBoxes(boxes.boxes, torch.zeros(1, dtype=torch.bool))
        assert animator.judge_identity(video, nobody, reference, face)[1].isnan().all()
    assert name == "judge"
    assert csim.tolist() == [pytest.approx(1)]
