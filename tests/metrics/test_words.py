import torch

from cbsae_hub.metrics.words import WordScore, word_scores


def by_hand(latents, words, neuron, word):
    """Precision and recall, occurrence by occurrence."""
    on = [float(z[neuron]) for z, w in zip(latents, words) if w == word]
    total = sum(float(z[neuron]) for z in latents)
    precision, recall = sum(on) / total if total else 0, sum(z > 0 for z in on) / max(1, len(on))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


def test_the_score_is_precision_and_recall_by_hand():
    rng = torch.Generator().manual_seed(0)
    latents = torch.rand(40, 6, generator=rng) * (torch.rand(40, 6, generator=rng) > 0.6)
    latents[:, 5] = 0
    words = torch.randint(4, (40,), generator=rng)
    latents[:, 0] = (words == 2).float() * 3  # a detector
    scores = word_scores(latents, words, 5)
    for neuron in range(6):
        for word in range(5):
            assert abs(scores[neuron, word] - by_hand(latents, words, neuron, word)) < 1e-9
    assert scores[0, 2] == 1 and scores[5].max() == 0


def test_batches_of_tokens_in_any_shards_give_the_same_as_whole_matrices(monkeypatch):
    monkeypatch.setattr("cbsae_hub.metrics.words.COMPACT_FROM", 50)  # so that batches are added up on the way
    rng = torch.Generator().manual_seed(1)
    words = torch.randint(7, (60,), generator=rng)
    pieces = torch.randint(1, 4, (60,), generator=rng)  # tokens of each word
    occurrence = torch.arange(60).repeat_interleave(pieces)
    tokens = torch.rand(len(occurrence), 9, generator=rng) * (torch.rand(len(occurrence), 9, generator=rng) > 0.7)
    whole = torch.stack([tokens[occurrence == i].amax(0) for i in range(60)])
    expected = word_scores(whole, words, 7)
    shards = [WordScore(9), WordScore(9)]
    for number, start in enumerate(range(0, 60, 10)):
        mine = (occurrence >= start) & (occurrence < start + 10)
        values, neurons = tokens[mine].topk(9)
        shards[number % 2].update(values, neurons, occurrence[mine] - start, words[start : start + 10])
    shards[0].merge_state(shards[1])
    found = shards[0].compute(count=3)
    best = expected.topk(3)
    torch.testing.assert_close(found.scores, best.values)
    assert torch.equal(found.words[best.values > 0], best.indices[best.values > 0])


def test_a_silent_neuron_has_no_word():
    metric = WordScore(2)
    metric.update(torch.tensor([[1.0], [0.0]]), torch.tensor([[0], [0]]), torch.tensor([0, 1]), torch.tensor([3, 4]))
    found = metric.compute(count=2)
    assert found.words.tolist() == [[3, -1], [-1, -1]] and found.scores.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert WordScore(2).compute().words.max() == -1
