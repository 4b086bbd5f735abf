"""A report before a long run: work, memory and time of a job, and what stands in its way."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models import modeling_utils

from stableanimator_core import denoiser, face_windows, preflight, vae
from stableanimator_core.evaluation import estimate, plan
from stableanimator_core.evaluation.estimate import (
    Job,
    Speed,
    Work,
    check_memory,
    describe_memory,
    describe_work,
    duration,
    report_job,
    try_job,
)
from stableanimator_core.evaluation.plan import (
    describe_plan,
    networks_gib,
    outlined,
    plan_memory,
    plan_published,
    refined_steps,
)
from stableanimator_core.face import FaceBoxes, ReferenceFace
from stableanimator_core.face_windows import Window, hjb_bytes
from stableanimator_core.hjb_settings import CURVES, HJBConfig
from stableanimator_core.models import kernels
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import SamplingConfig, find_face
from stableanimator_core.trail import StepSeconds
from stableanimator_core.weights import V1_CONFIG, Places, load_models
from stableanimator_core.weights.networks import Models

CUDA = torch.device("cuda")
NOWHERE = Places(models=(Path("nowhere"),), insightface=(), checkpoints=())


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture(scope="module")
def clip():
    return make_clip(0, size=(64, 64), frames=6, family="wave")


@pytest.fixture
def job(clip):
    return Job(reference=clip.reference, reference_pose=clip.reference_pose, driving=clip.poses)


@pytest.fixture
def published(models, monkeypatch):
    """A model whose networks pass for the published ones in half precision, 4 GiB of them."""
    vae, unet = models.vae.half(), models.unet.half()
    for network, part in ((vae, "vae"), (unet, "unet")):
        monkeypatch.setattr(network.config, "block_out_channels", V1_CONFIG.parts[part]["block_out_channels"])
    monkeypatch.setattr(plan, "networks_gib", lambda _: 4.0)
    yield replace(models, config=V1_CONFIG)
    vae.float(), unet.float()


@pytest.fixture
def fused(monkeypatch):
    """Kernels are fused on an NVIDIA GPU, whatever is here."""
    monkeypatch.setattr(kernels, "usable", lambda device: device.type == "cuda")


def settings(models: Models, **given) -> SamplingConfig:
    return SamplingConfig.for_model(models.config, **given)


@pytest.fixture
def sound(monkeypatch):
    """Pretend that nothing is wrong with this installation."""
    empty = preflight.Installation((), {"name": "cpu"}, None, {}, {}, {})
    monkeypatch.setattr(estimate, "check_installation", lambda places: empty)


def test_a_job_that_is_ready(models, job, sound):
    verdict, work, memory, time = report_job(models, job, NOWHERE).splitlines()[:4]
    assert verdict.startswith("ready to run, ")
    assert work == (
        "work: model 'tiny', 64x64, 6 frames in 2 windows, 2 denoising steps, "
        "1 face iterations in each of the steps 1 to 1"
    )
    assert memory.startswith("memory: networks ") and memory.endswith("MiB, finished frames 0.3 MiB of main memory")
    assert time == (
        "time: not known before a first run; Sample tells after its first step, or switch measure on for a short trial"
    )


def test_nothing_but_a_model(models, sound):
    assert report_job(models, Job(), NOWHERE).splitlines()[0] == "ready to run, 0 notes"


def test_problems_come_before_notes_with_what_mends_them(models, job, sound):
    nobody = replace(job.driving, body_score=np.zeros_like(job.driving.body_score))
    lines = report_job(models, replace(job, driving=nobody, sampling={"width": 96}), NOWHERE).splitlines()
    assert lines[0] == "not ready: 1 problem, 1 note"
    assert [line.partition(":")[0] for line in lines[4::2]] == ["PROBLEM", "note"]
    assert lines[4] == "PROBLEM: driving: no person in any of 6 frames" and lines[5] == "    fix: give other poses"


def test_a_size_that_cannot_be_made_is_one_problem(models, sound):
    lines = report_job(models, Job(sampling={"width": 70}), NOWHERE).splitlines()
    assert lines[0] == "not ready: 1 problem, 0 notes"
    assert lines[1].startswith("PROBLEM: size 70 x 64: model 'tiny' needs multiples of 32") and len(lines) == 3


def test_published_files_count_for_the_published_model_alone(models, monkeypatch):
    asked = []
    empty = preflight.Installation((), {"name": "cpu"}, None, {}, {}, {})
    monkeypatch.setattr(estimate, "check_installation", lambda places: asked.append(places) or empty)
    report_job(models, Job(), NOWHERE)
    report_job(replace(models, config=V1_CONFIG), Job(), NOWHERE)
    assert asked == [None, NOWHERE]


def test_a_trial_tells_the_time(models, job, sound):
    forwards = []
    time = report_job(models, job, NOWHERE, measure=True, on_forward=lambda: forwards.append(1)).splitlines()[3]
    assert (
        time.startswith("time: about ")
        and "s a denoising step with the identity scope on, " in time
        and time.endswith(", as just tried")
    )
    assert len(forwards) >= estimate.TRIAL_STEPS * 2, "two windows in every step"


def test_a_trial_without_material_or_face_says_so(models, job, sound):
    report = report_job(models, Job(), NOWHERE, measure=True)
    assert "time: not measured" in report and "note: time: a trial needs a picture and a motion" in report
    hidden = replace(job.reference_pose, body_score=np.zeros((1, 1, 18)), face_score=np.zeros((1, 1, 68)))
    assert "face iteration," not in report_job(models, replace(job, reference_pose=hidden), NOWHERE, measure=True)


def test_what_waits_for_missing_files_is_not_said_to_be_unconnected(models, job, sound):
    waiting = replace(job, reference_pose=None, driving=None, waiting=("driving", "model", "reference_pose"))
    speed = Speed(1.0, 0.0, 0.0)
    report = report_job(models, waiting, NOWHERE, speed=lambda *_: speed)
    assert (
        "note: driving and reference_pose: could not be found without the missing files, "
        "so what they show was not checked\n    fix: get the files that are named here, then run Preflight again"
    ) in report
    assert "its pose is missing" not in report and "connect" not in report
    assert "time: not reckoned before the files that find the motion are here" in report
    assert "time: not measured before the missing files are here" in report_job(models, waiting, NOWHERE, measure=True)
    pose = report_job(models, replace(job, driving=None, waiting=("driving",)), NOWHERE)
    assert "note: driving: could not be found" in pose


def test_the_models_files_alone_keep_nothing_else_from_being_checked(models, job, sound):
    report = report_job(models, replace(job, waiting=("model",)), NOWHERE, measure=True)
    assert "could not be found" not in report and "time: not measured before the missing files are here" in report


def test_a_face_that_a_detector_finds_is_checked_without_its_pose(models, job, sound):
    class Nobody:
        def detect(self, picture):
            return []

    config = replace(models.config, face_crop="arcface")
    waiting = replace(job, reference_pose=None, detector=Nobody(), waiting=("reference_pose",))
    assert "PROBLEM: reference: no face found" in report_job(replace(models, config=config), waiting, NOWHERE)


def test_a_trial_that_runs_out_of_memory_is_a_problem(models, job, sound, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(estimate, "sample", full)
    lines = report_job(models, job, NOWHERE, measure=True).splitlines()
    assert lines[4] == "PROBLEM: memory: a trial of this job ran out of the card's memory"


def test_the_total_is_reckoned_from_its_parts(models, clip):
    hjb, given = HJBConfig(iterations=5, first_step=0, last_step=9), settings(models, steps=20)
    face = find_face(models, clip.reference, clip.reference_pose)
    tried = try_job(models, clip.reference, clip.poses, face, given, hjb)
    assert min(tried.setup_s, tried.step_s, tried.decode_s) > 0 and tried.peak_gib is None
    parts = tried.setup_s + 20 * tried.step_s + 50 * tried.iteration_s + tried.decode_s
    assert tried.total_s == pytest.approx(parts)
    plain = try_job(models, clip.reference, clip.poses, None, given, hjb)
    assert plain.iteration_s == 0


def test_what_the_scope_looks_at_is_tried_too(models, clip):
    """Two plain steps are looked at once, the refined one before and after its iteration; each look can be stopped."""
    face = find_face(models, clip.reference, clip.reference_pose)

    def calls(face: ReferenceFace | None) -> int:
        count, hjb = itertools.count(), HJBConfig(iterations=1)
        try_job(models, clip.reference, clip.poses, face, settings(models), hjb, on_forward=lambda: next(count))
        return next(count)

    assert calls(face) - calls(None) == 4


def test_refined_steps_are_those_within_the_schedule_that_have_strength():
    hjb = HJBConfig(iterations=4, first_step=8, last_step=99)
    assert list(refined_steps(hjb, 10)) == [8, 9] and not refined_steps(hjb, 5)
    rising = HJBConfig(iterations=4, first_step=0, last_step=3, strength=CURVES["rising"])
    assert list(refined_steps(rising, 10)) == [1, 2, 3]


def test_steps_without_strength_are_no_work(models, clip):
    rising = HJBConfig(iterations=4, first_step=0, last_step=3, strength=CURVES["rising"])
    told = describe_work(models.config, settings(models, steps=10), rising, None)
    assert told.endswith("4 face iterations in each of the steps 1 to 3")
    face = find_face(models, clip.reference, clip.reference_pose)
    tried = try_job(models, clip.reference, clip.poses, face, settings(models, steps=10), rising)
    parts = tried.setup_s + 10 * tried.step_s + 12 * tried.iteration_s + tried.decode_s
    assert tried.total_s == pytest.approx(parts)


def test_face_iterations_that_sample_would_refuse_are_a_problem(models, sound):
    late = Job(sampling={"steps": 15}, hjb={"first_step": 20, "last_step": 30})
    lines = report_job(models, late, NOWHERE).splitlines()
    assert lines[0] == "not ready: 1 problem, 0 notes"
    assert lines[1] == "PROBLEM: hjb-steps 20:30 start after the last sampling step, 14"
    off = replace(late, hjb=late.hjb | {"iterations": 0})
    assert report_job(models, off, NOWHERE).startswith("ready to run")


def boxes(*corners: tuple[float, float], side: float = 100) -> FaceBoxes:
    """A face of so many px in every frame, at these corners."""
    found = torch.tensor([(x, y, x + side, y + side) for x, y in corners])
    return FaceBoxes(found, torch.ones(len(found), dtype=torch.bool))


@pytest.mark.parametrize(
    "fused, shape, gib",
    [(True, (8, 32, 36), 3.94), (True, (4, 32, 34), 1.86), (True, (8, 18, 20), 1.23), (False, (8, 24, 24), 2.55)],
)
def test_memory_of_the_face_optimisation_fits_the_records(published, monkeypatch, fused, shape, gib):
    """tests/benchmarks/2026-11-23-v1-speed.md: the largest windows of its motion, in cells of 8 px."""
    monkeypatch.setattr(kernels, "usable", lambda device: fused)
    frames, rows, columns = shape
    window = Window(list(range(frames)), (slice(0, rows), slice(9, 9 + columns)), boxes())
    assert hjb_bytes(published.vae, window) / 2**30 == pytest.approx(gib, rel=0.02)


def test_memory_is_told_of_the_published_sizes_alone(published, monkeypatch):
    given, faces = settings(published), boxes((200, 100))
    assert "denoising about" in describe_memory(published, plan_memory(published, given, HJBConfig(), faces, 1.0), 0)
    assert check_memory(published, plan_memory(published, given, HJBConfig(), faces, 1.0))
    monkeypatch.setattr(published.vae.config, "block_out_channels", [64, 256, 512, 512])
    small = plan_memory(published, given, HJBConfig(), faces, 1.0)
    assert describe_memory(published, small, 0) == "memory: networks 4.0 GiB" and not check_memory(published, small)


def test_stages_of_a_plan(published):
    """16 frames of 512x512 in a window of 16: bytes of a pixel times pixels times what is done at once."""
    given, faces = settings(published, width=512, height=512), boxes(*[(104, 104)] * 16)
    gib, pixels = 2**30, 512 * 512
    whole = plan_memory(published, given, HJBConfig(), faces, None)
    assert (whole.together, whole.hjb_chunk, whole.decode_chunk, whole.tile) == (True, 8, 7, None)
    assert whole.unet == pytest.approx(2 * 16 * pixels * denoiser.PLAIN_UNET_BYTES / gib)
    assert whole.hjb == pytest.approx(8 * 136**2 * face_windows.PLAIN_HJB_BYTES / gib) and whole.window == (8, 17, 17)
    assert whole.decode == pytest.approx(7 * pixels * vae.PLAIN_DECODE_BYTES / gib), "three parts of 16, which overlap"
    assert whole.peak == 4.0 + max(whole.unet, whole.hjb, whole.decode) and whole.fits
    assert whole.decode > whole.sampling == whole.unet > whole.hjb
    assert not describe_plan(whole) and not check_memory(published, whole)
    alone = plan_memory(published, replace(given, guidance=(1.0, 1.0)), HJBConfig(), faces, None)
    assert alone.unet == whole.unet / 2
    for hjb in (HJBConfig(iterations=0), HJBConfig(first_step=90, last_step=99)):
        assert plan_memory(published, given, hjb, faces, None).hjb == 0
    assert plan_memory(published, given, HJBConfig(), None, None).window is None
    nobody = faces._replace(found=torch.zeros(16, dtype=torch.bool))
    assert plan_memory(published, given, HJBConfig(), nobody, None).window is None
    full = plan_memory(published, given, HJBConfig(decode="full"), faces, None)
    assert full.window == (8, 64, 64)


def test_a_plan_is_for_the_device_that_computes(published, fused):
    """The networks are in main memory until the job begins."""
    given, faces = settings(published, width=512, height=512), boxes(*[(104, 104)] * 16)
    gib, pixels = 2**30, 512 * 512
    made = plan_memory(published.taking_turns(CUDA), given, HJBConfig(), faces, 24.0)
    assert made.unet == pytest.approx(2 * 16 * pixels * denoiser.UNET_BYTES / gib)
    assert made.hjb == pytest.approx(8 * 136**2 * face_windows.HJB_BYTES / gib)
    assert made.decode == pytest.approx(7 * pixels * vae.DECODE_BYTES / gib)
    free = made.hjb * gib * 1.01
    chunks = {
        device: face_windows.fitting_chunk(published.vae, faces, (64, 64), 2, free, device=device)
        for device in (CUDA, None)
    }
    assert chunks == {CUDA: 8, None: 4}


def test_a_plan_fits_frames_by_the_device_that_computes(published, fused):
    """4.7 GiB beside the networks and what is spared: 7 frames by fused kernels alone, and room is asked for them."""
    given, there = settings(published, width=512, height=640), published.taking_turns(CUDA)
    made, plain = (plan_memory(models, given, HJBConfig(0), None, 9.7) for models in (there, published))
    assert (made.decode_chunk, plain.decode_chunk) == (7, 4)


def test_a_report_plans_for_the_device_that_computes(published, clip, sound, fused):
    job, frames = Job({"width": 512, "height": 512}, driving=clip.poses), clip.poses.frames
    for models, each in ((published, vae.PLAIN_DECODE_BYTES), (published.taking_turns(CUDA), vae.DECODE_BYTES)):
        told = f"decoding about {frames * 512 * 512 * each / 2**30:.1f} GiB more"
        assert told in report_job(models, job, NOWHERE)


@pytest.mark.parametrize(
    "rest, together, faces, frames, tile",
    [
        (4.7, True, 8, 7, None),
        (2.4, True, 8, 4, None),
        (1.6, False, 4, 2, None),
        (1.2, False, 4, 2, None),
    ],
)
def test_a_plan_steps_down_until_it_fits(published, rest, together, faces, frames, tile):
    """rest: GiB beside the networks. What each stage takes of it is at most that."""
    given, there = settings(published, width=512, height=512), boxes(*[(100, 100)] * 16, side=120)
    made = plan_memory(published, given, HJBConfig(), there, 5.0 + rest)
    assert (made.together, made.hjb_chunk, made.decode_chunk, made.tile) == (together, faces, frames, tile)
    assert made.fits and max(made.unet, made.hjb, made.decode) <= rest
    notes = check_memory(published, made)
    assert [finding.level for finding in notes] == (["note"] if min(faces, frames) < 7 else [])


def test_tiles_come_last(published):
    given = settings(published, width=512, height=512)
    made = plan_memory(published, given, HJBConfig(iterations=0), None, 5.4)
    assert (made.decode_chunk, made.tile) == (1, 32) and made.decode <= 0.4
    assert not made.fits, "the UNet is too large all the same"
    assert "frames are decoded in tiles of 32x32 latent cells" in describe_plan(made)
    assert plan_memory(published, given, HJBConfig(iterations=0), None, 4.0).tile == 8, "and the least tile the end"


def test_the_asked_chunk_is_the_most(published):
    given, faces = settings(published, width=512, height=512), boxes(*[(104, 104)] * 16)
    assert plan_memory(published, given, HJBConfig(chunk=3), faces, None).hjb_chunk == 3
    assert plan_memory(published, given, HJBConfig(chunk=16), faces, 5.0 + 1.6).hjb_chunk == 8


def test_a_face_that_moves_takes_more(published):
    """16 px of margin on each side of 100 px: the window holds all places that the faces of a chunk have."""
    given = settings(published, width=512, height=512)
    still, moving = boxes(*[(104, 104)] * 8), boxes(*((104 + 8 * i, 104) for i in range(8)))

    def gib(faces: FaceBoxes, chunk: int) -> float:
        return plan_memory(published, given, HJBConfig(chunk=chunk), faces, None).hjb

    assert gib(moving, 8) == pytest.approx(gib(still, 8) * (136 + 56) / 136)
    assert gib(moving, 1) == gib(still, 1) == pytest.approx(gib(still, 8) / 8)
    last = boxes(*[(104, 104)] * 9, side=50)
    last.boxes[8] = torch.tensor((200.0, 200, 500, 500))
    largest = pytest.approx((41 * 8) ** 2 * face_windows.PLAIN_HJB_BYTES / 2**30)
    assert gib(last, 8) == largest, "not the first"


def test_a_cropped_motion_has_larger_faces(published, clip, sound):
    """The canvas is twice as wide as the output's: half of it is cut off, and the rest is as large as without."""
    reports = [
        report_job(published, Job({"width": 512, "height": 512}, driving=poses), NOWHERE).splitlines()
        for poses in (clip.poses, replace(clip.poses, width=128))
    ]
    told = (next(line for line in lines if line.startswith("memory: ")) for lines in reports)
    plain, cropped = (float(line.split("face optimisation about ")[1].split()[0]) for line in told)
    assert cropped == pytest.approx(plain, rel=0.15)


def test_a_card_too_small_is_noted(published):
    given, faces = settings(published, width=512, height=512), boxes(*[(104, 104)] * 8)
    (finding,) = check_memory(published, plan_memory(published, given, HJBConfig(decode="full"), faces, 6.0))
    assert finding.level == "note" and finding.what == (
        "memory: the job takes about 6.3 GiB at least, the card has 6.0 GiB"
    )
    assert finding.fix == "make a smaller video, or switch the face optimisation off"
    (finding,) = check_memory(published, plan_memory(published, given, HJBConfig(iterations=0), faces, 5.0))
    assert finding.fix == "make a smaller video or lower context_frames"
    (finding,) = check_memory(published, plan_memory(published, given, HJBConfig(), faces, 4.5))
    assert finding.fix == "the networks alone do not fit, take a smaller model or a larger card"
    told = describe_memory(published, plan_memory(published, given, HJBConfig(), faces, None), 8 * 512 * 512)
    assert told == (
        "memory: networks 4.0 GiB, denoising about 1.2 GiB more, face optimisation about 1.3 GiB more for 8 faces in "
        "136x136 px at once, decoding about 4.6 GiB more, finished frames 24.0 MiB of main memory"
    )


def test_the_report_plans_for_the_card_that_is_here(published, clip, monkeypatch):
    card = {"name": "cuda", "gpu": "a small card", "gpu_memory_gib": 6.5, "gpu_memory_free_gib": 6.0}
    installation = preflight.Installation((), card, None, {}, {}, {})
    monkeypatch.setattr(estimate, "check_installation", lambda places: installation)
    lines = report_job(published, Job({"width": 512, "height": 512}, driving=clip.poses), NOWHERE).splitlines()
    (note,) = (line for line in lines if line.startswith("note: memory: "))
    assert note.startswith("note: memory: as the card has 6.5 GiB, the face optimisation decodes ")


def test_plans_of_the_published_model(fused):
    """Its real sizes, reckoned without weights: on 24 GiB nothing is in pieces; on 8 GiB both fit, the larger one in
    pieces."""
    large, small = plan_published(24.0, CUDA), plan_published(8.0, CUDA)
    assert list(large) == list(small) == [(512, 512), (576, 1024)]
    assert all(made.fits and made.exact and not describe_plan(made) for made in large.values())
    assert large[512, 512].networks == pytest.approx(4.5, abs=0.1)
    assert all(made.fits for made in small.values()) and small[576, 1024].hjb_chunk < 8
    assert large[576, 1024].unet > 2 * large[512, 512].unet


def test_plans_of_the_published_model_without_fused_kernels(monkeypatch):
    """As README says: 8 GiB are enough for both sizes, in smaller pieces."""
    monkeypatch.setattr(kernels, "usable", lambda device: False)
    assert all(made.fits and not made.exact for made in plan_published(8.0, CUDA).values())


def test_networks_that_take_turns(fused):
    """The published model: its UNet and image encoder are on the card for their own stages where both don't fit. As
    README says: 512x512 fits on 6 GB, on 8 GB without smaller pieces, and 576x1024 on 8 GB."""
    given = {card: plan_published(card, CUDA) for card in (6.0, 8.0, 24.0)}
    six, eight, large = (plans[512, 512] for plans in given.values())
    assert given[8.0][576, 1024].fits and (six.hjb_chunk, eight.hjb_chunk, large.hjb_chunk) == (4, 8, 8)
    assert six.fits and six.held == pytest.approx((1.6, 3.3, 0.4), abs=0.05)
    assert eight.held == pytest.approx((4.5, 3.3, 3.3), abs=0.05), "only the UNet needs the image encoder's room"
    assert describe_plan(eight) == ["networks take turns on the card"] and eight.together and eight.exact
    (note,) = check_memory(outlined(V1_CONFIG, torch.float16, CUDA), eight)
    assert note.fix == "none is needed, the run does so by itself; the result is the same" and not six.exact
    assert eight.peak == max(eight.held.sampling + max(eight.unet, eight.hjb), eight.held.decoding + eight.decode)
    assert eight.peak < eight.card - 1 and eight.decode_chunk == 7
    assert not large.turns and set(large.held) == {large.networks}


def test_work_without_a_motion_and_without_hjb(models):
    told = describe_work(models.config, settings(models, steps=1), HJBConfig(iterations=0), None)
    assert told == "work: model 'tiny', 64x64, 1 denoising step, no face optimisation"


def test_networks_are_weighed(models):
    numbers = sum(weight.numel() for part in models.parts().values() for weight in part.parameters())
    assert networks_gib(models) == pytest.approx(4 * numbers / 2**30)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (89 * 60, "89 min"), (7500, "2 h 05 min")]
)
def test_durations_as_people_say_them(seconds, told):
    assert duration(seconds) == told


def test_a_speed_reckons_what_it_was_taken_from():
    """Steps of 4 frames in windows of 6 in all: 3 s to denoise; 0.4 s to look, 8 s for 10 iterations."""
    steps = [StepSeconds(3.0, 0.4, 0), StepSeconds(3.0, 8.0, 10)]
    speed = Speed.of(steps, 4, 6)
    assert speed == pytest.approx((0.5, 0.1, 0.2))
    assert speed.reckon([0, 10], 4, 6) == pytest.approx(14.4)
    assert speed.reckon([0, 10], 8, 12) == pytest.approx(28.8), "twice the frames, twice the time"
    without = Speed.of(steps[:1], 4, 6)
    assert without.reckon([0, 0], 4, 6) == pytest.approx(6.8) and without.reckon([0, 1], 4, 6) is None


def test_work_counts_frames_of_overlapping_windows(models):
    hjb = HJBConfig(3, 1, 1)
    assert Work.of(settings(models, steps=3), hjb, 6) == Work((0, 3, 0), 6, 8)
    assert Work.of(settings(models, steps=3), None, 4) == Work((0, 0, 0), 4, 4)


def test_a_report_tells_the_time_by_earlier_runs(models, job):
    speed = Speed(1.0, 0.0, 0.0)
    for given, told in (
        (None, "time: not known before a first run"),
        (speed, "time: sampling takes about 16 s, by the last run"),
        (speed._replace(iteration=None), "time: not known with the face optimisation"),
    ):
        assert told in report_job(models, job, NOWHERE, speed=lambda *_, given=given: given)
    assert "time: connect driving" in report_job(models, replace(job, driving=None), NOWHERE, speed=lambda *_: speed)


def test_an_outline_is_enough_for_a_report(models, job):
    outline = outlined(models.config, torch.float32, torch.device("cpu"))
    assert all(weight.is_meta for weight in outline.unet.parameters())
    assert report_job(outline, job, NOWHERE) == report_job(models, job, NOWHERE)


def test_an_outline_is_made_in_silence(models, monkeypatch):
    """doctor and Preflight make one of the published model."""
    said = []
    monkeypatch.setattr(modeling_utils.logger, "warning", lambda text, *_: said.append(text))
    assert outlined(models.config, torch.float16, CUDA).dtype == torch.float16 and not said
