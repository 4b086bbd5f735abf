"""Reference picture, face and poses as the UNet gets them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from stableanimator_core.conditioning import (
    build_conditioning,
    clip_picture,
    cover,
    cover_picture,
    cover_poses,
    image_token,
    pose_features,
    resize_picture,
    time_ids,
)
from stableanimator_core.face import ReferenceFace
from stableanimator_core.keypoints import Poses
from stableanimator_core.models.pose_net import PoseNet
from stableanimator_core.pipeline import from_uint8
from stableanimator_core.vae import encode_image
from stableanimator_core.weights import load_models, read_config

FRAMES, SIZE = 3, 64


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture
def reference():
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def pose_images():
    return np.random.default_rng(2).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)


def build(models, reference, pose_images, *, face=None, size=(SIZE, SIZE), seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return build_conditioning(models, reference, pose_images, face=face, size=size, generator=generator)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_shapes_and_the_identity_path_off(models, reference, pose_images):
    cond = build(models, reference, pose_images)
    assert cond.context.shape == (1, 1 + 4, 64)
    assert cond.context[:, :1].any() and not cond.context[:, 1:].any()
    assert cond.id_scale == 0
    assert cond.image_latents.shape == (1, 4, SIZE // 8, SIZE // 8)
    assert cond.pose_features.shape == (FRAMES, 32, SIZE // 8, SIZE // 8)
    assert cond.time_ids.tolist() == [pytest.approx([6, 127, 0.02])]


def test_face_tokens_come_after_the_image_token(models, reference, pose_images):
    face = ReferenceFace(torch.randn(16, generator=torch.Generator().manual_seed(3)), torch.zeros(4))
    without, cond = (build(models, reference, pose_images, face=given) for given in (None, face))
    assert cond.id_scale == 1
    assert cond.context[:, :1].equal(without.context[:, :1])
    with torch.no_grad():
        expected = models.face_encoder(face.embedding[None], cond.context[:, :1])
    torch.testing.assert_close(cond.context[:, 1:], expected)


def test_image_latents_have_a_little_noise_of_the_generator(models, reference, pose_images):
    one, again, other = (build(models, reference, pose_images, seed=seed) for seed in (0, 0, 1))
    assert one.image_latents.equal(again.image_latents)
    assert not one.image_latents.equal(other.image_latents)
    noise = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encode_image(models.vae, reference[None] + 0.02 * noise)
    torch.testing.assert_close(one.image_latents, expected)
    assert one.context.equal(other.context), "the image encoder sees no noise"


def test_a_reference_of_another_size_is_resized(models, pose_images):
    reference = torch.rand(3, 2 * SIZE, 2 * SIZE)
    assert build(models, reference, pose_images).image_latents.shape[-2:] == (SIZE // 8, SIZE // 8)


def test_half_precision_networks(tiny_model, reference, pose_images):
    models = load_models(tiny_model, dtype=torch.bfloat16)
    face = ReferenceFace(torch.randn(16), torch.zeros(4))
    cond = build(models, reference, pose_images, face=face)
    tensors = (cond.context, cond.image_latents, cond.time_ids, cond.pose_features)
    assert all(tensor.dtype == torch.bfloat16 and tensor.isfinite().all() for tensor in tensors)


# --- its parts ------------------------------------------------------------------------------------------------------


def test_pose_features_do_not_depend_on_the_chunk():
    torch.manual_seed(0)
    pose_net = PoseNet(8)
    torch.nn.init.normal_(pose_net.final_proj.weight)  # an untrained PoseNet says nothing
    images = torch.randint(0, 256, (5, 32, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        whole = pose_net(images.permute(0, 3, 1, 2) / 127.5 - 1)
        assert whole.abs().max() > 0.01
        for chunk in (1, 2, 16):
            torch.testing.assert_close(pose_features(pose_net, images, chunk=chunk), whole)
        torch.testing.assert_close(pose_features(pose_net, images.numpy()), whole)


def test_pictures_are_squeezed_to_the_image_encoder(models):
    pictures = torch.full((2, 3, 50, 90), 0.25)
    squeezed = clip_picture(models.image_encoder, pictures)
    assert squeezed.shape == (2, 3, 32, 32)
    torch.testing.assert_close(squeezed, torch.full_like(squeezed, 0.25))
    with torch.no_grad():
        assert image_token(models.image_encoder, squeezed).shape == (2, 1, 64)


def test_the_image_encoder_sees_clips_normalisation(models):
    """A picture of CLIP's mean colour is zero for the encoder."""
    seen = []

    def encoder(pixels):
        seen.append(pixels)
        return models.image_encoder(pixels)

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    with torch.no_grad():
        image_token(encoder, (mean * 2 - 1)[None, :, None, None].expand(1, 3, 32, 32))
    torch.testing.assert_close(seen[0], torch.zeros(1, 3, 32, 32), atol=1e-5, rtol=0)


def test_time_ids_are_the_models(tiny_model):
    assert time_ids(read_config(tiny_model)).tolist() == [pytest.approx([6, 127, 0.02])]


def test_a_picture_of_the_right_size_is_not_touched():
    picture = torch.rand(1, 3, 8, 12)
    assert resize_picture(picture, 12, 8) is picture
    assert resize_picture(picture, 6, 4).shape == (1, 3, 4, 6)
    assert resize_picture(picture, 6, 4).mean().item() == pytest.approx(picture.mean().item(), abs=0.05)


@pytest.mark.parametrize("size", [(48, 40), (40, 96), (200, 160)])
def test_pictures_are_resized_as_the_published_pipeline_does(size):
    levels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    expected = VaeImageProcessor().preprocess(Image.fromarray(levels), width=size[0], height=size[1])
    found = resize_picture(from_uint8(levels)[None], *size)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


# --- crop to the output's aspect ------------------------------------------------------------------------------------

SOURCES = [(64, 64), (80, 60), (60, 80), (200, 50), (97, 31)]
TARGETS = [(64, 64), (96, 64), (32, 128)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_cover_fills_the_target_and_crops_evenly(source, target):
    part = cover(Poses.empty(1, *source), *target)
    assert max(part.width, part.height) == pytest.approx(1), "one side fits exactly"
    assert part.width * source[0] / (part.height * source[1]) == pytest.approx(target[0] / target[1])
    assert (2 * part.x + part.width, 2 * part.y + part.height) == pytest.approx((1, 1))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_picture_and_poses_go_the_same_way(source, target):
    """A white block in the picture lands where a keypoint at its centre lands."""
    width, height = source[0] * 4, source[1] * 4
    picture = np.zeros((height, width, 3), np.uint8)
    x, y = width // 2 + 1, height // 2 - 2
    picture[y - 6 : y + 7, x - 6 : x + 7] = 255
    poses = Poses.empty(1, width, height, people=1)
    poses.body[0, 0, 0], poses.body_score[0, 0, 0] = (x + 0.5, y + 0.5), 1

    part = cover(poses, *target)
    covered = resize_picture(cover_picture(picture, part)[None], *target)[0, 0] + 1
    rows, columns = torch.arange(target[1]) + 0.5, torch.arange(target[0]) + 0.5
    found = (covered.sum(0) @ columns / covered.sum(), covered.sum(1) @ rows / covered.sum())
    moved = cover_poses(poses, part, *target)
    assert (moved.width, moved.height) == target
    assert moved.body[0, 0, 0] == pytest.approx([float(v) for v in found], abs=0.6)


@pytest.mark.parametrize("y", [20, 300])
def test_a_crop_keeps_the_face(y):
    """A full-body picture, head near the top or the bottom: an even crop to a square would cut it off."""
    poses = Poses.empty(2, 180, 320, people=1)
    head = [(90, y), (84, y - 4), (96, y - 4), (78, y - 2), (102, y - 2)]
    poses.body[:, 0, [0, 14, 15, 16, 17]], poses.body_score[:, 0, [0, 14, 15, 16, 17]] = head, 1
    part = cover(poses, 64, 64)
    moved = cover_poses(poses, part, 64, 64).body[0, 0, [0, 14, 15, 16, 17]]
    assert ((moved >= 0) & (moved <= 64)).all()
    assert (part.width, part.height) == pytest.approx((1, 180 / 320))
    assert 0 <= part.y <= 1 - part.height


def test_a_picture_of_the_right_aspect_keeps_its_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    canvas = Poses.empty(1, 40, 30)
    covered = cover_picture(picture, cover(canvas, 80, 60))
    assert covered.shape == (3, 30, 40)
    assert covered.min() >= -1 and covered.max() <= 1
    np.testing.assert_array_equal(((covered + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), picture)
    np.testing.assert_array_equal(
        cover_picture(picture, cover(canvas, 20, 20)),
        torch.from_numpy(picture).permute(2, 0, 1)[:, :, 5:35] / 127.5 - 1,
    )
    assert cover_picture(picture[:1], cover(Poses.empty(1, 400, 4), 32, 512)).shape[2] >= 1, "never nothing"
