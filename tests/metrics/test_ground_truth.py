import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import average_precision_score

from cbsae_hub.metrics.ground_truth import average_precisions, label_matrix


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scikit_learn(ties):
    rng = np.random.default_rng(0)
    latents = np.maximum(rng.normal(size=(90, 7)) - 0.4, 0)
    if ties:
        latents = np.round(latents, 1)
    latents[:, 2], latents[:, 3] = 0, 1
    labels = rng.random((90, 5)) < [0.02, 0.1, 0.3, 0.5, 0.9]
    labels[0] = True
    found = average_precisions(sparse.csc_matrix(latents), labels)
    for neuron in range(7):
        for label in range(5):
            expected = average_precision_score(labels[:, label], latents[:, neuron])
            assert found[neuron, label] == pytest.approx(expected, abs=1e-6)


def test_labels_that_no_image_has_are_undefined():
    labels = np.array([[True, False], [False, False]])
    found = average_precisions(sparse.csc_matrix([[1.0], [0.0]]), labels)
    assert found[0, 0] == 1 and np.isnan(found[0, 1])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 images and labels of 3"):
        average_precisions(sparse.csc_matrix((2, 1)), np.zeros((3, 1), bool))
    with pytest.raises(ValueError, match="negative"):
        average_precisions(sparse.csc_matrix([[-1.0]]), np.zeros((1, 1), bool))


def test_label_matrix():
    matrix, names = label_matrix([{"b"}, set(), {"a", "b"}])
    assert names == ["a", "b"]
    assert matrix.tolist() == [[False, True], [False, False], [True, True]]
