"""Stateless randomness: every draw is a function of what it is for, never of what was drawn before."""

import hashlib

import torch
from torch import Tensor


def derive(*parts: int | str) -> int:
    """A seed in 0 … 2³¹−1 from its parts, the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


def permutation(count: int, *parts: int | str) -> list[int]:
    """An order of 0 … count−1."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(*parts))).tolist()


def modality_keep(seeds: Tensor, chance: float) -> Tensor:
    """Which sensors each sample keeps: float32 [B,2]; with ``chance`` one of the two, drawn evenly, is dropped."""
    keep = torch.ones(len(seeds), 2)
    for row, seed in enumerate(seeds.tolist()):
        draw = derive(seed, "modality") / 2**31
        if draw < chance:
            keep[row, int(draw < chance / 2)] = 0.0
    return keep


def patch_mask(seeds: Tensor, grid: tuple[int, int], ratio: float) -> Tensor:
    """Which patches of each sample are hidden: bool [B,rows,columns], the same share of every sample."""
    count = grid[0] * grid[1]
    mask = torch.zeros(len(seeds), count, dtype=torch.bool)
    for row, seed in enumerate(seeds.tolist()):
        mask[row, permutation(count, seed, "mask")[: round(ratio * count)]] = True
    return mask.view(-1, *grid)
