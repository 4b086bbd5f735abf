"""Clips that `train prepare` has written, as the animator learns from them: encoded once, kept on disk."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..conditioning import clip_picture, image_token
from ..errors import InputError
from ..face import FaceBoxes, embed_faces
from ..vae import encode_image
from ..weights import Models
from .material import HeldOut, Sample
from .prepare import CLIP, FACES, SETTINGS

log = logging.getLogger(__name__)

CHUNK = 8  # frames encoded at once
HELD_OUT = 0.02  # share of the clips, at least one where there are several


@dataclass(frozen=True)
class PreparedClip:
    """One clip on disk."""

    folder: Path
    frames: int

    def picture(self, kind: str, frame: int) -> np.ndarray:
        """A frame of images or poses, uint8 [H, W, 3]. Raises InputError when it is not there or damaged."""
        path = self.folder / kind / f"frame_{frame}.png"
        try:
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete the clip's folder and prepare again") from error

    def faces(self) -> FaceBoxes:
        """Where the embedder finds the face."""
        boxes, templates = self._faces()
        found = torch.isfinite(boxes if templates is None else templates.flatten(1)).all(1)
        if templates is None:
            return FaceBoxes(boxes.nan_to_num(), found)
        return FaceBoxes.of_templates(templates.nan_to_num(), found)

    def boxes(self) -> Tensor:
        """Where the loss weighs more, [F, 4] px, NaN without a face."""
        return self._faces()[0]

    def _faces(self) -> tuple[Tensor, Tensor | None]:
        with np.load(self.folder / FACES) as stored:
            boxes = torch.from_numpy(stored["boxes"])
            return boxes, torch.from_numpy(stored["templates"]) if "templates" in stored else None


def read_prepared(folder: Path) -> tuple[dict, list[PreparedClip]]:
    """The settings of a prepared folder and its clips. Raises InputError."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        clips = [
            PreparedClip(path.parent, json.loads(path.read_text(encoding="utf-8"))["frames"])
            for path in sorted(folder.glob(f"*/{CLIP}"))
        ]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: holds no prepared clips; make them with train prepare --out {folder}") from error
    if not clips:
        raise InputError(f"{folder}: holds no usable clip; see {folder / 'bad.txt'}")
    return settings, clips


class PreparedMaterial:
    """Runs of `frames` frames, every `stride`-th, with a reference from anywhere in the clip that shows the face.

    The frozen networks run once over every clip: latents, image tokens and embeddings are kept in `folder`/encoded-...
    and found again by later runs. The processes of a run share the work and the folder. A share of the clips is held
    out. Raises InputError for a folder that is not prepared, another model's clips and clips that are too short.
    """

    def __init__(
        self, models: Models, folder: Path, *, frames: int, stride: int = 1, device: torch.device, process: int = 0,
        processes: int = 1, wait: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        settings, clips = read_prepared(folder)
        config = models.config
        for name in ("pose_canvas", "face_scale", "face_crop"):
            if settings[name] != getattr(config, name):
                made_for = f"{name} {settings[name]}, not {getattr(config, name)}"
                raise InputError(f"{folder}: was prepared for another model ({made_for}); prepare the clips again")
        self.models, self.device, self.frames, self.stride = models, device, frames, stride
        self.size = settings["width"], settings["height"]
        self.span = (frames - 1) * stride + 1  # frames of the clip that a run covers
        long = [clip for clip in clips if clip.frames >= self.span]
        if not long:
            most = max(clip.frames for clip in clips)
            raise InputError(f"{folder}: no clip has {self.span} frames, the longest {most}; give fewer --frames")
        self.cache = folder / f"encoded-{fingerprint(models):08x}"
        for number, clip in enumerate(clips):
            if number % processes == process and not self._encoded(clip).is_file():
                self._encode(clip)
                log.info("%s encoded (%d of %d)", clip.folder.name, number + 1, len(clips))
        wait()
        kept = max(1, round(HELD_OUT * len(long))) if len(long) > 1 else 0
        self.clips, self.unseen = long[: len(long) - kept], long[len(long) - kept :]
        self._boxes = {clip.folder: clip.boxes() for clip in self.clips}

    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[Tensor, ...]:
        """Everything of `Sample`, on the CPU."""
        runs = []
        for _ in range(count):
            clip = self.clips[int(rng.integers(len(self.clips)))]
            start = int(rng.integers(clip.frames - (length - 1) * self.stride))
            runs.append(self._run(clip, start, length, float(rng.random()), self._boxes[clip.folder]))
        return tuple(torch.stack(column) for column in zip(*runs))

    def gather(self, *drawn: Tensor) -> Sample:
        sample = Sample(*drawn)
        return sample._replace(latents=sample.latents.float(), image_latents=sample.image_latents.float())

    @torch.no_grad()
    def held_out(self) -> HeldOut | None:
        """The first clip that is held out; a single clip is looked at although it is trained on."""
        clip = (self.unseen or self.clips)[0]
        if not self.unseen:
            log.info("the only clip is validated on, too")
        boxes, place = clip.boxes(), clip.faces()
        if not place.found.any():
            return None
        shown = int(place.found.nonzero()[0])
        sample = Sample(*(part[None].to(self.device) for part in self._run(clip, 0, self.frames, 0.0, boxes)))
        chosen = range(0, self.span, self.stride)
        picture = torch.from_numpy(clip.picture("images", shown)).permute(2, 0, 1)[None] / 127.5 - 1
        target = embed_faces(self.models.face_judge or self.models.face_embedder, picture, place.picked([shown]))[0]
        truth = np.stack([clip.picture("images", f) for f in chosen])
        return HeldOut(self.gather(*sample), truth, place.picked(chosen), target)

    def _run(self, clip: PreparedClip, start: int, length: int, which: float, boxes: Tensor) -> Sample:
        """One run, without the axis of the batch. which: of the frames that may be the reference, 0..1."""
        stop = start + (length - 1) * self.stride + 1
        with safe_open(self._encoded(clip), framework="pt") as stored:
            faces = stored.get_tensor("has_face").nonzero().flatten()
            reference = int(faces[int(which * len(faces))]) if len(faces) else int(which * clip.frames)
            latents = stored.get_slice("latents")[start:stop][:: self.stride]
            one = slice(reference, reference + 1)
            image_latents, token, embedding = (
                stored.get_slice(name)[one][0] for name in ("image_latents", "token", "embedding")
            )
        poses = np.stack([clip.picture("poses", f) for f in range(start, stop, self.stride)])
        return Sample(
            latents, image_latents, token[None], embedding, torch.tensor(len(faces) > 0), torch.from_numpy(poses),
            boxes[start : stop : self.stride],
        )  # fmt: skip

    def _encoded(self, clip: PreparedClip) -> Path:
        return self.cache / f"{clip.folder.name}.safetensors"

    @torch.no_grad()
    def _encode(self, clip: PreparedClip) -> None:
        """Every frame as a frame to make and as a reference: noise is added to the latter, the same in every run."""
        models, faces = self.models, clip.faces()
        generator = torch.Generator().manual_seed(zlib.crc32(clip.folder.name.encode()))
        parts = []
        for start in range(0, clip.frames, CHUNK):
            chosen = range(start, min(start + CHUNK, clip.frames))
            pictures = torch.from_numpy(np.stack([clip.picture("images", f) for f in chosen]))
            x = (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self.device)
            noise = models.config.noise_augmentation * torch.randn(x.shape, generator=generator).to(x)
            parts.append({
                "latents": (encode_image(models.vae, x) * models.vae.config.scaling_factor).half(),
                "image_latents": encode_image(models.vae, x + noise).half(),
                "token": image_token(models.image_encoder, clip_picture(models.image_encoder, x))[:, 0].float(),
                "embedding": embed_faces(models.face_embedder, x, faces.picked(chosen)).nan_to_num(),
            })  # fmt: skip
        stored = {name: torch.cat([part[name] for part in parts]).cpu().contiguous() for name in parts[0]}
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = self._encoded(clip).with_suffix(".partial")
        save_file(stored | {"has_face": faces.found}, partial)
        os.replace(partial, self._encoded(clip))


class MixedMaterial:
    """Clips of several sizes: each batch is of one of them, as often as they have clips."""

    def __init__(self, materials: Sequence[PreparedMaterial]):
        self.materials, self.frames = materials, materials[0].frames
        clips = np.array([len(material.clips) for material in materials])
        self._shares = clips / clips.sum()

    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[int | Tensor, ...]:
        """Which size, and what its material draws."""
        which = int(rng.choice(len(self.materials), p=self._shares))
        return which, *self.materials[which].draw(rng, count, length)

    def gather(self, which: int, *drawn: Tensor) -> Sample:
        return self.materials[which].gather(*drawn)

    def held_out(self) -> HeldOut | None:
        """Of the first size."""
        return self.materials[0].held_out()


def fingerprint(models: Models) -> int:
    """A number for the networks that encode: equal for equal weights, whatever is trained beside them."""
    crc = zlib.crc32(str(models.config.noise_augmentation).encode())
    for module in (models.vae, models.image_encoder, models.face_embedder):
        for key, tensor in module.state_dict().items():
            some = tensor.flatten()[:64].float().cpu().numpy()
            crc = zlib.crc32(some.tobytes(), zlib.crc32(f"{key}{list(tensor.shape)}".encode(), crc))
    return crc
