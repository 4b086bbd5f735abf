"""The networks, as plain modules: they know nothing of files, devices or pipelines."""

from .face_encoder import FaceEncoder
from .id_adapter import IDAdapterAttnProcessor, ImageTokenAttnProcessor
from .iresnet import IResNet
from .pose_net import PoseNet
from .unet import AnimatorUNet

__all__ = ["AnimatorUNet", "FaceEncoder", "IDAdapterAttnProcessor", "IResNet", "ImageTokenAttnProcessor", "PoseNet"]
