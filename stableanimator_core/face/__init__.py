"""Faces: where they are in each frame, how they are cropped, embedded and compared (CSIM)."""

from .boxes import FaceBoxes, face_boxes
from .crops import crop_faces
from .detect import DetectedFace, FaceDetector
from .embed import csim, embed_faces, score_identity
from .reference import ReferenceFace, embed_reference, encode_reference_face, locate_among, locate_in_pose

__all__ = [
    "DetectedFace", "FaceBoxes", "FaceDetector", "ReferenceFace", "crop_faces", "csim", "embed_faces",
    "embed_reference", "encode_reference_face", "face_boxes", "locate_among", "locate_in_pose", "score_identity",
]  # fmt: skip
