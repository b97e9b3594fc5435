"""What a state must agree with: a hash of the world that wrote it."""

from __future__ import annotations

import hashlib

from ..world import World


def fingerprint(world: World, *kept: str) -> str:
    """Hash the shape and a sample of the weights of a world, its memory, and what else a state keeps."""
    digest = hashlib.blake2b("".join(kept).encode(), digest_size=12)
    if world.dynamics.memory is not None:
        digest.update(repr(world.dynamics.memory).encode())
    for name, tensor in sorted(world.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().half().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()
