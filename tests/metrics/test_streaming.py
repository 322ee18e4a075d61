"""Against torchmetrics, whose way of working a streaming metric has."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchmetrics

from cbsae_hub.metrics.streaming import StreamingMetric


def two_largest(stacked):
    return stacked.flatten().topk(2).values


def kind(base):
    """The same metric on either base."""

    class Everything(base):
        full_state_update = False  # torchmetrics merges only such

        def __init__(self):
            super().__init__()
            self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state("highest", torch.full((), -torch.inf), dist_reduce_fx="max")
            self.add_state("lowest", torch.full((), torch.inf), dist_reduce_fx="min")
            self.add_state("rows", default=[], dist_reduce_fx="cat")
            self.add_state("best", torch.full((2,), -torch.inf), dist_reduce_fx=two_largest)

        def update(self, values):
            self.total += values.double().sum()
            self.count += len(values)
            self.highest = torch.maximum(self.highest, values.max())
            self.lowest = torch.minimum(self.lowest, values.min())
            self.rows.append(values)
            self.best = two_largest(torch.cat([self.best, values]))

        def compute(self):
            rows = torch.cat(list(self.rows)) if isinstance(self.rows, list) else self.rows
            return {"mean": self.total / self.count, "highest": self.highest, "lowest": self.lowest,
                    "rows": rows.sort().values, "best": self.best, "count": self.count}  # fmt: skip

    return Everything


Ours, Theirs = kind(StreamingMetric), kind(torchmetrics.Metric)
BATCHES = [torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (3, 5, 2, 7)]


def same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value)


def after(metric, batches):
    for batch in batches:
        metric.update(batch)
    return metric


def test_streams_merges_and_resets_as_torchmetrics_does():
    ours, theirs = after(Ours(), BATCHES[:2]), after(Theirs(), BATCHES[:2])
    same(ours.compute(), after(Theirs(), BATCHES[:2]).compute())  # theirs would still give this score after merging
    ours.merge_state(after(Ours(), BATCHES[2:]))
    theirs.merge_state(after(Theirs(), BATCHES[2:]))
    same(ours.compute(), theirs.compute())
    for batch in BATCHES[:2]:  # twice: what is added to the sums after a reset must not stay in what is reset to
        ours.reset()
        same(after(ours, [batch]).compute(), after(Theirs(), [batch]).compute())
    ours.reset()
    theirs.reset()
    assert ours.metric_state.keys() == theirs.metric_state.keys()
    same(after(ours, BATCHES[3:]).compute(), after(theirs, BATCHES[3:]).compute())


def test_a_shard_stays_as_it_is_when_it_is_merged_or_copied():
    shard = after(Ours(), BATCHES[:1])
    before = {name: copy.deepcopy(value) for name, value in shard.metric_state.items()}
    after(Ours(), BATCHES[1:]).merge_state(shard)
    after(copy.deepcopy(shard), BATCHES[1:])
    for name, value in before.items():
        torch.testing.assert_close(shard.metric_state[name], value)
    assert shard.state_dict() == {}, "sums are no weights"
    moved = copy.deepcopy(shard).to("meta")
    assert {moved.total.device.type, moved.rows[0].device.type} == {"meta"}


def test_no_gradient_is_kept():
    values = torch.ones(4, requires_grad=True)
    metric = after(Ours(), [values])
    assert not metric.total.requires_grad and not metric.compute()["mean"].requires_grad


def _process(rank, world, meeting, results):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    metrics = after(Ours(), BATCHES[rank::world]), after(Theirs(), BATCHES[rank::world])
    results[rank] = [{name: value.tolist() for name, value in metric.compute().items()} for metric in metrics]
    assert len(metrics[0].rows) == len(BATCHES[rank::world]), "afterwards the sums are its own again"
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_processes_get_the_score_of_all(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, args=(2, tmp_path / "meeting", results), nprocs=2)
        (ours, theirs), other = results[0], results[1][0]
    assert ours == theirs == other
    assert ours["count"] == sum(map(len, BATCHES))
