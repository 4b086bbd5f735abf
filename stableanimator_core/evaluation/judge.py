"""Who says how similar two faces are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..weights import Models


@dataclass(frozen=True)
class Judge:
    """A face network, and how its figures are to be read."""

    name: str  # "judge": HJB never sees it; "embedder": the one that HJB optimises
    network: nn.Module
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Models) -> Judge:
        """The model's own judge, else its embedder."""
        if models.face_judge is not None:
            return cls("judge", models.face_judge)
        return cls("embedder", models.face_embedder, (
            f"model '{models.config.name}' has no judge of its own: CSIM comes from the embedder that HJB optimises, "
            "so csim flatters it; csim_without_hjb does not",
        ))  # fmt: skip
