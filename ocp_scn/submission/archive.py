"""What is in the npz files of the leaderboards."""

from __future__ import annotations

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")
TRACKS = {  # and what the leaderboard reads of each split
    "s2ef": ("ids", "energy", "forces", "chunk_idx"),
    "is2re": ("ids", "energy"),
    "is2rs": ("ids", "pos", "chunk_idx"),
}
FORMATS = ("current", "evalai")
