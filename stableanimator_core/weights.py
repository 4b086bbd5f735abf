"""Model folders: the only reader and writer of weight files.

A model folder holds `config.json` (what the networks are, how they were trained, good settings) and, for every part,
`<part>.safetensors` or its shards `<part>-00001-of-00002.safetensors`. The built-in model `mini` is such a folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLTemporalDecoder
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .errors import WeightsError
from .models.face_encoder import FaceEncoder
from .models.iresnet import IResNet
from .models.pose_net import PoseNet
from .models.unet import AnimatorUNet

ASSETS = Path(__file__).parent / "assets"
BUILT_IN = {"mini": ASSETS / "mini"}
SHARD_BYTES = 15 << 20
FORMAT = 1


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

    def __post_init__(self):
        whole = ("width", "height", "size_multiple", "pose_canvas", "context_window", "fps", "steps")
        wrong = [name for name in whole if not (isinstance(getattr(self, name), int) and getattr(self, name) > 0)]
        numbers = ("face_scale", "context_overlap", "motion_bucket", "noise_augmentation", "sigma_min", "sigma_max")
        wrong += [name for name in numbers if not isinstance(getattr(self, name), int | float)]
        wrong += [] if isinstance(self.guidance, list | tuple) and len(self.guidance) == 2 else ["guidance"]
        steps = [self.hjb.get(key) for key in ("first_step", "last_step")] if isinstance(self.hjb, dict) else [None]
        wrong += [] if all(isinstance(step, int) for step in steps) else ["hjb"]
        if wrong:
            raise WeightsError(f"model '{self.name}': its configuration gives no valid {', '.join(wrong)}")
        object.__setattr__(self, "guidance", tuple(self.guidance))


@dataclass(frozen=True)
class Models:
    """The networks of one model, in evaluation mode, frozen."""

    unet: AnimatorUNet
    pose_net: PoseNet
    face_encoder: FaceEncoder
    face_embedder: IResNet
    vae: AutoencoderKLTemporalDecoder
    image_encoder: CLIPVisionModelWithProjection
    config: ModelConfig
    face_judge: IResNet | None = None  # scores identity; the optimisation never sees it

    def parts(self) -> dict[str, nn.Module]:
        """Every network by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def to(self, device: str | torch.device) -> Models:
        """Move every network in place and return self."""
        for module in self.parts().values():
            module.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype


PARTS = {
    "unet": AnimatorUNet,
    "pose_net": PoseNet,
    "face_encoder": FaceEncoder,
    "face_embedder": IResNet,
    "face_judge": IResNet,
    "vae": AutoencoderKLTemporalDecoder,
    "image_encoder": lambda **config: CLIPVisionModelWithProjection(CLIPVisionConfig(**config)),
}
OPTIONAL = {"face_judge"}


def build_models(config: ModelConfig) -> Models:
    """The networks of `config` with fresh weights. Raises WeightsError naming the part whose settings are wrong."""
    networks: dict[str, nn.Module] = {}
    for part, settings in config.parts.items():
        try:
            networks[part] = PARTS[part](**settings)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = str(error).partition("\n")[0]
            where = f"model '{config.name}': the settings of its {part}"
            raise WeightsError(f"{where} make no network: {reason}") from error
    return Models(config=config, **networks)


def load_models(model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Models:
    """Load a built-in model by name or a model folder, frozen and in evaluation mode.

    dtype: of the weights; None keeps float32, which is what CPUs are fast at.
    Raises WeightsError with the exact file that is missing, damaged or of another model.
    """
    folder = find_model(model)
    config = read_config(folder)
    with torch.inference_mode(False):  # weights created in inference mode can't be differentiated through (HJB)
        with init_empty_weights():
            models = build_models(config)
        for part, module in models.parts().items():
            _fill(module, read_part(folder, part), folder / part, dtype or torch.float32)
            module.requires_grad_(False).eval()
        return models.to(device)


def fill_models(models: Models, folder: Path) -> None:
    """Load the parts that a folder has into float32 networks, for training to go on. Raises WeightsError."""
    config = read_config(folder)
    for part, module in models.parts().items():
        if list(folder.glob(f"{part}*.safetensors")):
            _fill(module, read_part(folder, part), folder / part, torch.float32)
    models.vae.register_to_config(scaling_factor=config.parts["vae"]["scaling_factor"])


def find_model(model: str | Path) -> Path:
    """The folder of a built-in model's name or of a path. Raises WeightsError naming what exists."""
    folder = BUILT_IN.get(str(model), Path(model))
    if not (folder / "config.json").is_file():
        known = ", ".join(BUILT_IN)
        raise WeightsError(
            f"unknown model '{model}': no such built-in model ({known}) and no config.json in a folder of that name"
        )
    return folder


def read_config(folder: Path) -> ModelConfig:
    """Read and check a model folder's config.json."""
    path = folder / "config.json"
    try:
        data = dict(json.loads(path.read_text(encoding="utf-8")))
        version = data.pop("format")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(f"{path}: not a model configuration ({error!r})") from error
    if version != FORMAT:
        raise WeightsError(f"{path}: format {version}, this version reads {FORMAT}; update StableAnimator++")
    try:
        config = ModelConfig(**data)
    except (TypeError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from error
    if not isinstance(config.parts, dict) or not all(isinstance(part, dict) for part in config.parts.values()):
        raise WeightsError(f"{path}: parts are {config.parts!r}, needed are the settings of each network by its name")
    missing = set(PARTS) - OPTIONAL - set(config.parts)
    if missing or set(config.parts) - set(PARTS):
        raise WeightsError(f"{path}: parts are {sorted(config.parts)}, needed are {sorted(set(PARTS) - OPTIONAL)}")
    return config


def read_part(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """State dict of one part, from one file or its shards."""
    files = sorted(folder.glob(f"{part}-*-of-*.safetensors")) or [folder / f"{part}.safetensors"]
    shards = int(files[0].stem.rsplit("-", 1)[-1]) if "-of-" in files[0].stem else 1
    if len(files) != shards:
        raise WeightsError(f"{folder}: {len(files)} of {shards} shards of {part} are there; copy the folder again")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state.update(load_file(file))
        except FileNotFoundError as error:
            raise WeightsError(f"{file}: missing; copy the model folder again") from error
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: damaged ({error}); copy the model folder again") from error
    return state


def save_models(models: Models, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a model folder that load_models reads: config.json and every part, in shards under 16 MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, module in models.parts().items():
        save_part(module, folder, part, dtype=dtype)
    config = asdict(models.config)
    config["parts"]["vae"]["scaling_factor"] = models.vae.config.scaling_factor  # measured in training
    text = json.dumps({"format": FORMAT, **config}, indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def save_part(module: nn.Module, folder: Path, part: str, *, dtype: torch.dtype = torch.float16) -> None:
    """Write one part; shards of at most 16 MiB, so that every file is easy to move."""
    for old in [*folder.glob(f"{part}.safetensors"), *folder.glob(f"{part}-*-of-*.safetensors")]:
        old.unlink()
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in module.state_dict().items():
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    for i, shard in enumerate(shards, 1):
        name = part if len(shards) == 1 else f"{part}-{i:05d}-of-{len(shards):05d}"
        save_file(shard, folder / f"{name}.safetensors")


def _fill(module: nn.Module, state: dict[str, torch.Tensor], where: Path, dtype: torch.dtype) -> None:
    """Load a state dict strictly, in this dtype; say which keys or shapes are another model's."""
    own = module.state_dict()
    wrong = [k for k in own if k not in state] + [k for k in state if k not in own]
    wrong += [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        raise WeightsError(
            f"{where}: {len(wrong)} of {len(own)} tensors are missing, unknown or of another shape "
            f"(first: {wrong[0]}); these weights belong to another model"
        )
    state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    module.load_state_dict(state, assign=True)  # the parameters are still without storage
