"""Memory runs out in a run: it goes on with less at once, says so, and a later run knows what was done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stableanimator_core import hjb, memory, pipeline, sweep
from stableanimator_core.denoiser import HALVES_APART
from stableanimator_core.hjb import fitted_note, smaller_note
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.parallel import Processes
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import (
    Hooks,
    SamplingConfig,
    StableAnimator,
    find_face,
    fit_to_memory,
    plan_sampling,
    sample,
)
from stableanimator_core.sweep import sweep_hjb
from stableanimator_core.trail import Trail
from stableanimator_core.weights import load_models

STEPS, FRAMES = 4, 4
HJB = HJBConfig(iterations=2, first_step=1, last_step=3, lr=0.3)


@pytest.fixture
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture(scope="module")
def clip():
    return make_clip(0, size=(64, 64), frames=FRAMES, family="wave")


@pytest.fixture
def job(models, clip):
    with torch.no_grad():
        face = find_face(models, clip.reference, clip.reference_pose)
    return models, clip.reference, clip.poses, face, SamplingConfig.for_model(models.config, steps=STEPS)


@pytest.fixture
def full_at(models, monkeypatch):
    """Memory runs out in the decodings with these numbers, counted from 0."""

    def arrange(*numbers: int) -> None:
        decode, count = models.vae.decode, iter(range(1000))

        def limited(latents, num_frames):
            if next(count) in numbers:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(latents, num_frames=num_frames)

        monkeypatch.setattr(models.vae, "decode", limited)

    return arrange


def run(job, options=HJB, **more):
    with torch.no_grad():
        return sample(*job, options, **more)


def test_the_run_goes_on_and_says_so_once(job, full_at):
    full_at(0, 1)  # four frames, then two
    told = []
    made = run(job, hooks=Hooks(on_note=told.append))
    assert told == [smaller_note(2), smaller_note(1)], "at once, as it happens"
    assert [note for note in made.notes if "ran out of memory" in note] == [smaller_note(1)], "in the end once"
    full_at()
    assert made.latents.equal(run(job, HJBConfig(**vars(HJB) | {"chunk": 1})).latents)


def test_what_was_done_with_fewer_frames_is_no_part_of_a_run_with_more(job, full_at):
    """Step 1 refines with four frames at once, in step 2 memory runs out, step 3 goes on with two."""
    trail = Trail()
    full_at(3)  # the second iteration of step 2
    run(job, trail=trail)
    assert plan_sampling(trail, *job, HJB).first == 2
    halved = HJBConfig(**vars(HJB) | {"chunk": 2})
    assert plan_sampling(trail, *job, halved).first == 1
    full_at()
    whole = run(job).latents
    assert run(job, trail=trail).latents.equal(whole), "the steps with fewer frames were run again"
    assert plan_sampling(trail, *job, HJB).first == STEPS


def test_from_the_first_iteration_of_a_step_it_is_the_smaller_chunk(job, full_at):
    trail, halved = Trail(), HJBConfig(**vars(HJB) | {"chunk": 2})
    full_at(0)
    run(job, trail=trail)
    assert plan_sampling(trail, *job, HJB).first == 1 == plan_sampling(trail, *job, halved).first, "step 1 had both"


def test_the_chunk_that_fits_belongs_to_the_course(job, monkeypatch):
    """Less memory is free than in the run before: it is another chunk, and what it touches is run again."""
    trail = Trail()
    run(job, trail=trail)
    assert plan_sampling(trail, *job, HJB).first == STEPS
    monkeypatch.setattr(hjb, "free_bytes", lambda device: 0)
    assert plan_sampling(trail, *job, HJB).first == 1
    assert plan_sampling(trail, *job, HJBConfig(iterations=0)).first == 1
    one = run(job, trail=trail)
    assert one.resumed_at == 1 and plan_sampling(trail, *job, HJB).first == STEPS
    assert one.latents.equal(run(job, HJBConfig(**vars(HJB) | {"chunk": 1})).latents)


def test_a_plan_holds_though_less_memory_is_free_when_it_is_run(job, monkeypatch):
    """A view that was told of the plan counts its steps by it."""
    trail = Trail()
    run(job, trail=trail)
    models, _, poses, face, settings = job
    fitted, notes = fit_to_memory(models, poses, face, settings, HJB)
    first = plan_sampling(trail, *job, fitted).first
    monkeypatch.setattr(hjb, "free_bytes", lambda device: 0)
    assert run(job, fitted, trail=trail).resumed_at == first == STEPS and not notes


def test_fewer_frames_from_the_start_are_noted(job, monkeypatch):
    monkeypatch.setattr(hjb, "free_bytes", lambda device: 0)
    models, _, poses, face, settings = job
    fitted, notes = fit_to_memory(models, poses, face, settings, HJB)
    assert fitted.chunk == 1 and notes == [fitted_note(1)] and fitted_note(1) in run(job).notes
    assert fitted_note(1).endswith("comes out slightly different, unless chunk is set to 1 there")
    for asked in (HJBConfig(iterations=0), HJBConfig(**vars(HJB) | {"chunk": 1})):
        assert fitted_note(1) not in run(job, asked).notes, "nothing is optimised, or it was asked for"
    assert fit_to_memory(models, poses, None, settings, HJB) == (HJB, [])


def test_settings_of_a_sweep_share_a_chunk(job, monkeypatch):
    """That of the setting which needs the most; memory that gets free meanwhile changes nothing."""
    free, used, real = iter([0, *[2**40] * 20]), [], pipeline.sample
    monkeypatch.setattr(hjb, "free_bytes", lambda device: next(free))

    def spied(*given, **how):
        used.append(given[5].chunk)
        return real(*given, **how)

    monkeypatch.setattr(sweep, "sample", spied)
    told = []
    rows = sweep_hjb(*job, [HJB, replace(HJB, decode="full"), replace(HJB, chunk=2)], hooks=Hooks(on_note=told.append))
    assert sorted(used) == [1, 1, 2] and told == [fitted_note(1)]
    assert [row.hjb.chunk for row in rows] == [None, None, 2], "rows are told as they were asked for"


@pytest.mark.parametrize("text", ["CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None])
def test_a_library_without_room_for_its_workspace_ran_out_of_memory(text):
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory") if text is None else RuntimeError(f"CUDA error: {text}")

    assert memory.attempt(fails) is None


def test_other_errors_are_errors():
    with pytest.raises(RuntimeError, match="shapes"):
        memory.attempt(lambda: (_ for _ in ()).throw(RuntimeError("shapes")))


def test_one_half_of_guidance_that_does_not_fit_says_what_to_do(job, models, monkeypatch):
    def full(*given, **how):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(models.unet, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="UNet: .* one half of guidance, 4 frames of 8x8 "):
        run(job)


def test_a_trail_in_several_processes_is_refused(job):
    with pytest.raises(ValueError, match="a trail in one of 2 processes; give none, or run one process"):
        run(job, trail=Trail(), processes=Processes(1, 2))


def test_halves_apart_are_told_at_once(job, models, monkeypatch):
    forward, told = models.unet.forward, []

    def small_card(sample, *others, **more):
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *others, **more)

    monkeypatch.setattr(models.unet, "forward", small_card)
    made = run(job, HJBConfig(iterations=0), hooks=Hooks(on_note=told.append))
    assert told == [HALVES_APART] and made.notes.count(HALVES_APART) == 1


def test_a_sweep_tells_what_happened_to_memory(job, full_at):
    full_at(0)
    told = []
    sweep_hjb(*job, [HJBConfig(iterations=0)], hooks=Hooks(on_note=told.append))
    assert len(told) == 1 and told[0].startswith("decoding ran out of memory and went on with 2 frames at once")


def test_decoding_that_ran_out_of_memory_is_noted(models, clip, full_at):
    full_at(0)
    off = HJBConfig(iterations=0)
    made = StableAnimator(models).animate(clip.reference, clip.poses, clip.reference_pose, hjb=off, steps=1)
    assert any(note.startswith("decoding ran out of memory and went on with 2 frames at once") for note in made.notes)
