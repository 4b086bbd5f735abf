"""Pictures and videos in and out: uint8 RGB, frames [F, H, W, 3]; contact sheets and pose overlays.

The suffix of a path chooses the format: .mp4 .mov .mkv (H.264), .webm (VP9), .gif and .webp (animations), and
.png, a folder of numbered pictures.
"""

from .formats import FALLBACK_FPS, FORMATS, PICTURES
from .reading import VideoReader, open_video, read_image, read_video
from .sheets import SheetRow, contact_sheet, overlay, spread
from .sound import carries_sound, read_sound
from .writing import check_output, write_image, write_video

__all__ = [
    "FALLBACK_FPS", "FORMATS", "PICTURES", "SheetRow", "VideoReader", "carries_sound", "check_output", "contact_sheet",
    "open_video", "overlay", "read_image", "read_sound", "read_video", "spread", "write_image", "write_video",
]  # fmt: skip
