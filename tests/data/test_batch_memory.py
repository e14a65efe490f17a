"""The slots in which workers hand over batches."""

import gc

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmnas.data import batch_memory
from mmnas.data.batch_memory import SlotBatch, new_batch
from mmnas.data.batching import collate


class Numbers(Dataset):
    """Samples of 1 to 20 regions that hold their index."""

    def __len__(self):
        return 120

    def __getitem__(self, index):
        regions = np.full((index * 7 % 20 + 1, 6), index, np.float32)
        return {"features": regions, "index": np.int64(index), "score": np.float32(index)}


def loader(workers=1, collate_fn=collate):
    return DataLoader(Numbers(), batch_size=4, num_workers=workers, collate_fn=collate_fn)


def check(batch, start):
    assert batch["index"].tolist() == list(range(start, start + 4))
    for row, mask, index in zip(batch["features"], batch["region_mask"], batch["index"], strict=True):
        assert mask.sum() == index * 7 % 20 + 1
        assert (row[mask] == index).all() and (row[~mask] == 0).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_what_workers_send_is_what_was_collated(workers):
    for number, batch in enumerate(loader(workers)):
        assert type(batch) is dict
        check(batch, 4 * number)


def test_batches_that_are_kept_keep_their_content():
    kept = list(loader())
    for number, batch in enumerate(kept):
        check(batch, 4 * number)


def test_a_view_of_one_tensor_keeps_the_slot():
    views = [batch["features"][1:, 0].T for batch in loader()]
    for number, view in enumerate(views):
        assert view[0].tolist() == [4 * number + 1, 4 * number + 2, 4 * number + 3]


def test_gradients_may_need_a_batch_after_its_name_is_gone():
    weight = torch.ones(6, requires_grad=True)
    losses = [(batch.pop("features") * weight).sum() for batch in loader()]
    expected = sum(index * (index * 7 % 20 + 1) for index in range(120))
    sum(losses).backward()
    assert weight.grad.tolist() == [expected] * 6


def with_slots(samples):
    batch = collate(samples)
    batch.update(slots=torch.tensor(len(batch_memory._SLOTS)), extra=batch["index"] + 1)
    return batch


def test_slots_are_used_again_and_added_tensors_travel_too():
    slots = 0
    for batch in loader(collate_fn=with_slots):
        slots = max(slots, int(batch["slots"]))
        assert torch.equal(batch["extra"], batch["index"] + 1)
    assert 0 < slots <= 6  # two that wait, one in hand, one being filled, and what is on its way


def unpacked(samples):
    gc.disable()  # what is free must not wait for a collection
    return {**collate(samples), "slots": torch.tensor(len(batch_memory._SLOTS))}


def test_a_batch_that_is_rebuilt_is_sent_as_usual_and_frees_its_slot():
    for number, batch in enumerate(loader(collate_fn=unpacked)):
        check(batch, 4 * number)
        assert batch["slots"] <= 4


def test_the_main_process_has_memory_of_its_own():
    batch = new_batch({"index": ((3,), np.dtype(np.int64)), "mask": ((2, 2), np.dtype(bool))})
    assert type(batch) is dict and not batch_memory._SLOTS
    assert (batch["index"].dtype, batch["mask"].dtype) == (torch.int64, torch.bool)


def _produce(queue, proceed):
    batch_memory.get_worker_info = lambda: True
    sizes = []
    for size in (10, 10**6, 10):
        batch = new_batch({"index": ((size,), np.dtype(np.int64))})
        batch["index"][:] = size
        queue.put(batch)
        del batch
        proceed.get()
        sizes.append([slot.size for slot in batch_memory._SLOTS])
    queue.put(sizes)


def test_a_free_slot_grows_when_a_batch_needs_more():
    context = torch.multiprocessing.get_context("fork")
    queue, proceed = context.Queue(), context.Queue()
    process = context.Process(target=_produce, args=(queue, proceed))
    process.start()
    for size in (10, 10**6, 10):
        batch = queue.get(timeout=60)
        assert batch["index"].tolist() == [size] * size
        del batch
        proceed.put(True)
    assert [len(sizes) for sizes in queue.get(timeout=60)] == [1, 1, 1]
    process.join(60)


def test_a_slot_batch_is_a_batch():
    slot = batch_memory._Slot()
    slot.grow(1000)
    batch = SlotBatch(slot, [("index", (4,), "<i8", 64)])
    assert batch["index"].shape == (4,) and not slot.free
    view = batch["index"][1:]
    del batch
    assert not slot.free
    del view
    assert slot.free
