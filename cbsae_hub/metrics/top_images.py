"""The images on which each neuron is most active, from which names, uniqueness and examples follow."""

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch, entries_of
from cbsae_hub.metrics.streaming import StreamingMetric

# Activation and image id in one integer whose order is the one we want: activation descending, then id ascending.
# The upper half is the float's bits, made to sort; the lower half counts ids down.
NOTHING = torch.iinfo(torch.int64).min
LAST_ID = 2**32 - 1
SIGNS = 0x7FFFFFFF


def keys_of(values: Tensor, image_ids: Tensor) -> Tensor:
    """Sort keys (int64, larger is better) of float32 activations and image ids below 2^32."""
    bits = (values.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 the 0.0 that it equals
    return (_flipped(bits).long() << 32).add_(LAST_ID - image_ids)


def values_of(keys: Tensor) -> Tensor:
    """Activations of keys, float32; -inf where there is nothing."""
    values = _flipped((keys >> 32).int()).view(torch.float32)
    return torch.where(keys == NOTHING, -torch.inf, values)


def _flipped(bits: Tensor) -> Tensor:
    """Float bits as integers that sort like the floats, and back: those of negative numbers are flipped."""
    return bits ^ ((bits >> 31) & SIGNS)


def ids_of(keys: Tensor) -> Tensor:
    """Image ids of keys, int64; -1 where there is nothing."""
    return torch.where(keys == NOTHING, -1, LAST_ID - (keys & LAST_ID))


def merge_keys(states: Tensor) -> Tensor:
    """The best k of several states, in any order: ``[parts, neurons, k] -> [neurons, k]``."""
    parts, neurons, k = states.shape
    return states.transpose(0, 1).reshape(neurons, parts * k).topk(k, dim=1).values


class StrongestImages(StreamingMetric):
    """A score of the ``k`` strongest images of each neuron, ties by image id.

    Equal whatever the order of batches and shards. Activations are compared as float32. State: 8 bytes a neuron and
    image, however many images there are.

    Args:
        neurons: Number of neurons.
        k: Images per neuron.
    """

    keys: Tensor
    stored: Tensor
    fired: Tensor
    negative: Tensor
    image_ids: list[Tensor]

    def __init__(self, neurons: int, k: int):
        super().__init__()
        self.neurons, self.k = neurons, k
        self.add_state("keys", torch.full((neurons, k), NOTHING), dist_reduce_fx=merge_keys)
        # `negative` counts batches or entries: only whether there are any matters.
        self.add_sums(torch.int64, stored=neurons, fired=neurons, negative=neurons)
        self.add_state("image_ids", default=[], dist_reduce_fx="cat")

    def add_images(self, latents: Tensor, image_ids: Tensor) -> None:
        """Adds a batch.

        Args:
            latents: ``[images, neurons]``, dense or sparse COO. A sparse one stores everything but zeros.
            image_ids: ``[images]`` int64, different for different images, from 0 to 2^32 - 1.

        Raises:
            ValueError: If lengths differ, or values are not finite.
        """
        check_batch(latents, self.neurons, image_ids=image_ids)
        self.image_ids.append(image_ids)
        add = self._add_sparse if latents.is_sparse else self._add_dense
        add(latents, image_ids)

    def ids(self) -> Tensor:
        """All image ids, ascending.

        Raises:
            ValueError: If there are none.
        """
        if not len(self.image_ids):
            raise ValueError("no images were given")
        return torch.cat(self.image_ids).sort().values

    def filled_keys(self) -> Tensor:
        """Sort keys of the images, ``[neurons, min(k, images)]``, descending; see :meth:`TopImages.compute`."""
        ids = self.ids()
        k = min(self.k, len(ids))
        partly = self.stored < len(ids)
        if (partly & (self.negative > 0)).any():
            raise ValueError("neurons with negative activations must be given for every image: pass them densely")
        short = (partly & (self.keys[:, k - 1] <= LAST_ID)).nonzero()[:, 0]  # fewer than k positive activations
        keys = self.keys[:, :k].clone()
        # Silent images of the lowest ids; twice as many as are wanted, as up to k of them may be active ones.
        silent = ids[: 2 * k]
        zeros = keys_of(torch.zeros(len(silent), device=ids.device), silent)
        for rows in short.split(4096):
            place = torch.searchsorted(silent, ids_of(keys[rows])).clamp_max(len(silent) - 1)
            active = torch.zeros(len(rows), len(silent), dtype=torch.int32, device=ids.device)
            active.scatter_add_(1, place, (silent[place] == ids_of(keys[rows])).int())
            free = torch.where(active > 0, NOTHING, zeros)
            keys[rows] = torch.cat([keys[rows], free], 1).topk(k, dim=1).values
        return keys

    def _add_dense(self, latents: Tensor, image_ids: Tensor) -> None:
        if not len(latents):
            return
        keys = keys_of(latents.T.contiguous(), image_ids)  # neurons one behind the other, or topk takes twice as long
        best = keys.topk(min(self.k, len(latents)), dim=1).values
        self.keys = _best(self.keys, best, self.k)
        self.stored += len(latents)
        # Counted by a product, which is several times as fast as the sum of booleans; exact below 2^24 images.
        ones = torch.ones(len(latents), device=latents.device)
        self.fired += (ones @ (latents > 0).float()).long()
        self.negative += (latents.amin(0) < 0).long()

    def _add_sparse(self, latents: Tensor, image_ids: Tensor) -> None:
        rows, neurons, values = entries_of(latents)
        self.stored += torch.bincount(neurons, minlength=self.neurons)
        self.fired += torch.bincount(neurons[values > 0], minlength=self.neurons)
        self.negative += torch.bincount(neurons[values < 0], minlength=self.neurons)
        keys = keys_of(values, image_ids[rows])
        enters = keys > self.keys[neurons, -1]
        keys, neurons = keys[enters], neurons[enters]
        keys, order = keys.sort(descending=True)
        neurons, by_neuron = neurons[order].sort(stable=True)
        touched, counts = neurons.unique_consecutive(return_counts=True)
        place = torch.arange(len(neurons), device=keys.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        fits = place < self.k
        row = torch.arange(len(touched), device=keys.device).repeat_interleave(counts)
        batch = torch.full((len(touched), min(self.k, int(counts.max()) if len(counts) else 1)), NOTHING)
        batch = batch.to(keys.device).index_put_((row[fits], place[fits]), keys[by_neuron][fits])
        self.keys[touched] = _best(self.keys[touched], batch, self.k)


class TopImages(StrongestImages):
    """The ``k`` strongest images of each neuron; see :class:`StrongestImages`."""

    def update(self, latents: Tensor, image_ids: Tensor) -> None:
        """Adds a batch; arguments and errors are those of :meth:`StrongestImages.add_images`."""
        self.add_images(latents, image_ids)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The top images.

        Silent images, of activation 0, fill up what is missing, lowest ids first.

        Returns:
            Activations ``[neurons, min(k, images)]``, descending, and image ids likewise.

        Raises:
            ValueError: If sparse latents held negative activations of a neuron, but not its activation on every image:
                which images come between those two then is unknown. Give signed neurons densely.
        """
        keys = self.filled_keys()
        return values_of(keys), ids_of(keys)


def _best(a: Tensor, b: Tensor, k: int) -> Tensor:
    return torch.cat([a, b], 1).topk(k, dim=1).values


def strongest(latents: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Activations and rows of the k strongest of ``latents [images, neurons]``, ``[neurons, min(k, images)]`` each."""
    top = TopImages(latents.shape[1], min(k, len(latents))).to(latents.device)
    top.update(latents, torch.arange(len(latents), device=latents.device))
    return top.compute()
