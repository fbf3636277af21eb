"""The old place of `tests.datasets`, for imports that are not moved yet."""

from tests.datasets import celeba, portraits, write_shard

__all__ = ["celeba", "portraits", "write_shard"]
