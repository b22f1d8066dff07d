"""Batches of an epoch: the processes of a run share each of them."""

import pytest

from datasets.distributed_batch_sampler import DistributedBatchSampler


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_each_batch(size):
    alone, *shares = (
        DistributedBatchSampler(21, 4, 3, rank, count) for rank, count in [(0, 1), *((r, size) for r in range(size))]
    )
    for batches in (alone, *shares):
        batches.epoch = 2
    steps = list(zip(*shares, strict=True))
    assert [sorted(key for part in step for key in part) for step in steps] == [sorted(batch) for batch in alone]
    assert {len(part) for step in steps for part in step} == {4 // size}
    assert len({index for batch in alone for _, index in batch}) == 20  # the last image fills no batch
