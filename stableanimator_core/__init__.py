"""StableAnimator++: one picture and a driving motion become a video of that person (arXiv 2507.15064)."""

__version__ = "0.1.0"
