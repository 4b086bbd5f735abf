"""Embeddings of faces and their similarity (CSIM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .boxes import FaceBoxes
from .crops import crop_faces


def csim(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of face embeddings over the last axis: [..., D], [..., D] -> [...]."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def embed_faces(embedder: nn.Module, frames: Tensor, faces: FaceBoxes) -> Tensor:
    """Embedding of each frame's face. frames: [F, 3, H, W] in -1..1 RGB -> [F, D], NaN where there is no face."""
    weight = next(embedder.parameters())
    found = faces.found.nonzero().flatten().tolist()
    if not found:
        return torch.full((len(frames), embedder.embedding_dim), float("nan"), device=weight.device)
    pixels = frames[found].to(weight.device, torch.float32)  # antialiasing knows no half precision on the CPU
    crops = crop_faces(pixels, faces.picked(found), embedder.input_size, antialias=True)
    embedded = embedder(crops.to(weight)).float()
    result = embedded.new_full((len(frames), embedded.shape[-1]), float("nan"))
    result[found] = embedded
    return result


def score_identity(embedder: nn.Module, frames: Tensor, faces: FaceBoxes, target: Tensor) -> Tensor:
    """CSIM of every frame's face with the reference embedding, [F], NaN where there is no face."""
    embedded = embed_faces(embedder, frames, faces)
    return csim(embedded, target.to(embedded.device))
