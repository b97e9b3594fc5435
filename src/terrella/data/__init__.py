"""Environments to episodes to clips: record, store, check, sample."""

from .convert import import_npz, read_npz
from .dataset import Dataset
from .draft import Draft
from .episode import Clips, Episode
from .moods import Moody, Seek
from .policies import Cover, Policy, Random, Scripted, StickyRandom, make_policy
from .record import record
from .repair import salvage, verify
from .sampler import ClipSampler
from .speech import Hindsight, Speak
from .wall_walk import WallWalk
from .writer import Writer

__all__ = [
    "ClipSampler",
    "Clips",
    "Cover",
    "Dataset",
    "Draft",
    "Episode",
    "Hindsight",
    "Moody",
    "Policy",
    "Random",
    "Scripted",
    "Seek",
    "Speak",
    "StickyRandom",
    "WallWalk",
    "Writer",
    "import_npz",
    "make_policy",
    "read_npz",
    "record",
    "salvage",
    "verify",
]
