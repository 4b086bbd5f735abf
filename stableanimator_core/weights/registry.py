"""The published weight files: what each is for, where it belongs, where it comes from.

Sizes and checksums are those of the hub's Git LFS pointers as of 2025; the hub's own decide when files are fetched.
Stable Video Diffusion's UNet and its 9.5 GB single files are not here: `unet.pth` takes the place of the one, the
VAE and the image encoder are all that is used of the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

HUB = "https://huggingface.co"
MB, GB = 10**6, 10**9
REPO = "FrancisRing/StableAnimator"
STABLE_ANIMATOR = "Apache-2.0 (on the hub; MIT on GitHub)"
STABILITY = "Stability AI Community License"
INSIGHTFACE = "InsightFace models: non-commercial research only"
DWPOSE = "Apache-2.0 (DWPose)"


@dataclass(frozen=True)
class WeightFile:
    """One file of the published weights."""

    key: str
    path: str  # where it belongs below a models folder, with forward slashes
    remote: str  # path in the hub repository
    repo: str
    size: int  # bytes
    sha256: str | None  # None: not known here, asked of the hub
    licence: str
    purpose: str

    @property
    def page(self) -> str:
        """Where a browser shows it and gets it, at the hub or at the mirror that HF_ENDPOINT names."""
        return f"{(os.environ.get('HF_ENDPOINT') or HUB).rstrip('/')}/{self.repo}/blob/main/{self.remote}"


FILES: dict[str, WeightFile] = {
    file.key: file
    for file in (
        WeightFile(
            "image_encoder", "SVD/image_encoder/model.safetensors",
            "stable-video-diffusion-img2vid-xt/image_encoder/model.safetensors", REPO, 2_528_371_296,
            "ed1e5af7b4042ca30ec29999a4a5cfcac90b7fb610fd05ace834f2dcbb763eab", STABILITY,
            "what the reference picture shows (CLIP)",
        ),
        WeightFile(
            "vae", "SVD/vae/diffusion_pytorch_model.safetensors",
            "stable-video-diffusion-img2vid-xt/vae/diffusion_pytorch_model.safetensors", REPO, 391_017_740,
            "5d92aa595a53d9da9faf594f09910ee869d5d567c8bb0362d5095673c69997d6", STABILITY,
            "frames to latents and back",
        ),
        WeightFile(
            "face_embedder", "Animation/glintr100_torch.pth", "Animation/glintr100_torch.pth", REPO, 261_000_000,
            None, INSIGHTFACE, "the identity of a face (ArcFace), for the identity path, HJB and CSIM",
        ),
        WeightFile(
            "face_encoder", "Animation/face_encoder.pth", "Animation/face_encoder.pth", REPO, 228_754_558,
            "d6c1a3ac2ca22bbb1e6e23d63d6f9f03080d95fbe63fe014fb03244fcb5b003c", STABLE_ANIMATOR,
            "the face embedding as tokens for the UNet",
        ),
        WeightFile(
            "pose_net", "Animation/pose_net.pth", "Animation/pose_net.pth", REPO, 829_269,
            "b56297b4a1cccf9fc2995a232ed06c4ad79a4e68ac00d716f6ba2bd8eb2401b2", STABLE_ANIMATOR,
            "skeleton pictures as features for the UNet",
        ),
        WeightFile(
            "unet", "Animation/unet.pth", "Animation/unet.pth", REPO, 6_201_376_518,
            "6c46bde145df2f9c52bd123aaf0e6f23ea88a786af4d37bdceac294bab5947fa", STABLE_ANIMATOR,
            "the denoiser, in place of Stable Video Diffusion's",
        ),
        WeightFile(
            "person_detector", "DWPose/yolox_l.onnx", "DWPose/yolox_l.onnx", REPO, 216_746_733,
            "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411", DWPOSE,
            "people in a frame",
        ),
        WeightFile(
            "keypoint_detector", "DWPose/dw-ll_ucoco_384.onnx", "DWPose/dw-ll_ucoco_384.onnx", REPO, 134_399_116,
            "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843", DWPOSE,
            "body, face and hands of a person",
        ),
        WeightFile(
            "face_detector", "antelopev2/scrfd_10g_bnkps.onnx", "models/antelopev2/scrfd_10g_bnkps.onnx", REPO,
            16_923_827, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91", INSIGHTFACE,
            "faces and their five points in a picture",
        ),
    )
}  # fmt: skip

V1 = ("unet", "pose_net", "face_encoder", "face_embedder", "vae", "image_encoder")
POSES = ("person_detector", "keypoint_detector")
FACES = ("face_detector",)
GROUPS = {"v1": V1, "poses": POSES, "faces": FACES}
DOWNLOADS = {**GROUPS, "v1": V1 + FACES, "all": tuple(FILES)}  # by the name that a download is asked for


def size_of(keys: Sequence[str]) -> str:
    """How much there is to download of these files."""
    return size_text(sum(FILES[key].size for key in keys))


def size_text(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / GB:.2f} GB" if size > GB / 10 else f"{size / MB:.1f} MB"
