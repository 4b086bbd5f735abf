"""What the user can mend: every message is one line that says where, what was found and what to do."""

GRACE = 10.0  # s that a process which fails leaves the word to another one that may know better


def one_line(error: object) -> str:
    """An exception's message, or a text, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


class InputError(ValueError):
    """The user's input is wrong. The command line prints the message alone and exits with status 2."""


class PoseError(InputError):
    """Keypoints that cannot be read, drawn or aligned."""


class FaceError(InputError):
    """A face that cannot be found or embedded."""


class VideoError(InputError):
    """A picture or video that cannot be read or written."""


class WeightsError(InputError):
    """Weight files that are missing, damaged or of another model."""
