"""What the pipeline must know about a model beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..errors import WeightsError
from ..models.id_adapter import Adding


@dataclass(frozen=True)
class ModelConfig:
    """What the pipeline must know about a model beside its weights."""

    name: str
    description: str
    width: int  # px, the size it was trained at
    height: int
    size_multiple: int  # px, width and height must be multiples of it
    pose_canvas: int  # px, short side of the canvas on which skeletons are drawn
    face_scale: float  # side of the face box over the extent of the 68 face points
    context_window: int  # frames the UNet sees at once
    context_overlap: int
    fps: int
    motion_bucket: int
    noise_augmentation: float
    sigma_min: float
    sigma_max: float
    steps: int
    guidance: tuple[float, float]  # first frame, last frame
    hjb: dict  # defaults of HJBConfig for this model
    parts: dict[str, dict] = field(default_factory=dict)  # part -> keyword arguments of its network
    sizes: tuple[tuple[int, int], ...] = ()  # further sizes that it was trained at, (width, height)
    face_crop: Literal["box", "arcface"] = "box"  # what its embedder was trained on: see `face`
    id_adapter: Adding = "distribution"  # how its face tokens are added; all but this one are there to be compared

    def __post_init__(self):
        whole = ("width", "height", "size_multiple", "pose_canvas", "context_window", "fps", "steps")
        wrong = [name for name in whole if not (isinstance(getattr(self, name), int) and getattr(self, name) > 0)]
        numbers = ("face_scale", "context_overlap", "motion_bucket", "noise_augmentation", "sigma_min", "sigma_max")
        wrong += [name for name in numbers if not isinstance(getattr(self, name), int | float)]
        wrong += [] if isinstance(self.guidance, list | tuple) and len(self.guidance) == 2 else ["guidance"]
        steps = [self.hjb.get(key) for key in ("first_step", "last_step")] if isinstance(self.hjb, dict) else [None]
        wrong += [] if all(isinstance(step, int) for step in steps) else ["hjb"]
        wrong += [] if self.face_crop in ("box", "arcface") else ["face_crop"]
        wrong += [] if self.id_adapter in get_args(Adding) else ["id_adapter"]
        if wrong:
            raise WeightsError(f"model '{self.name}': its configuration gives no valid {', '.join(wrong)}")
        object.__setattr__(self, "guidance", tuple(self.guidance))
        object.__setattr__(self, "sizes", tuple(tuple(size) for size in self.sizes))

    @property
    def trained_sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (width, height) in px that the model was trained at, its default first."""
        return ((self.width, self.height), *self.sizes)
