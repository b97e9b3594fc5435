"""Episodes of a stream: a few centroids of what frames look like, clustered as frames come.

Each frame enters as a centroid of its own; when there is one too many, the two most alike become one. No threshold has
to be fitted, a cut opens an episode, and what comes back joins the one that it resembles.

Ref: Kim et al., EpiCache, arXiv 2509.17396 (episodes by clustering). Differs: clustered online, without a first pass
over the whole past.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

HEAVY = 2.0**20  # frames that a centroid counts at most


@dataclass(frozen=True)
class Episodes:
    """Centroids `(B, K, D)` and how many frames are in each, `(B, K)`.

    renamed: the new number of each old one, `(B, K)`. current: the newest frame's, `(B,)`.
    """

    centroids: Tensor
    sizes: Tensor
    renamed: Tensor
    current: Tensor


def enter(centroids_BKD: Tensor, sizes_BK: Tensor, frame_BD: Tensor) -> Episodes:
    """Enter one frame; sizes of 0 mark centroids that are free."""
    k = sizes_BK.shape[1]
    row = torch.arange(len(frame_BD), device=frame_BD.device)
    centroids = torch.cat([centroids_BKD, frame_BD[:, None]], 1)
    sizes = F.pad(sizes_BK, (0, 1), value=1.0)
    unit = F.normalize(centroids, dim=-1)
    alike = unit @ unit.transpose(1, 2)
    free = sizes == 0
    alike = alike.masked_fill(free[:, :, None] | free[:, None, :], -torch.inf)
    alike[:, :, k] = torch.where(free, torch.inf, alike[:, :, k])  # a free place takes the frame
    pairs = torch.ones(k + 1, k + 1, dtype=torch.bool, device=frame_BD.device).triu(1)
    pair = alike.masked_fill(~pairs, -torch.inf).flatten(1).argmax(-1)
    a, b = pair // (k + 1), pair % (k + 1)
    weight = sizes[row, b] / (sizes[row, a] + sizes[row, b])
    centroids[row, a] = torch.lerp(centroids[row, a], centroids[row, b], weight[:, None])
    sizes[row, a] = (sizes[row, a] + sizes[row, b]).clamp(max=HEAVY)
    # If the frame joined, all is done (its own place is cut off below); else it takes the place that became free.
    joined = b == k
    centroids[row, b], sizes[row, b] = frame_BD, 1.0
    renamed = torch.arange(k + 1, device=frame_BD.device).repeat(len(frame_BD), 1)
    renamed[row, b] = a
    return Episodes(centroids[:, :k], sizes[:, :k], renamed[:, :k], torch.where(joined, a, b))
