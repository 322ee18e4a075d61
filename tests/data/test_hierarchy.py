"""Against looking at every node, on a small tree with concepts of two kinds."""

import json
from itertools import combinations, combinations_with_replacement

import networkx as nx
import numpy as np
import pytest

from cbsae_hub.data.hierarchy import ConceptTree

EDGES = [
    ("thing", "animal"), ("thing", "food"), ("animal", "pet"), ("animal", "fish"), ("food", "fish"), ("pet", "dog"),
    ("pet", "cat"), ("fish", "tuna"), ("fish", "cod"), ("food", "pizza"), ("animal", "owl"), ("pet", "corgi?"),
    ("dog", "corgi"), ("dog", "pug"),
]  # fmt: skip


@pytest.fixture
def tree():
    return ConceptTree.from_edges(EDGES, "small")


def test_leaves_depths_and_kinds(tree):
    assert tree.leaves == ["cat", "cod", "corgi", "corgi?", "owl", "pizza", "pug", "tuna"]
    for node in tree.graph:
        above = nx.ancestors(tree.graph, node) | {node}
        paths = {kind: nx.shortest_path_length(tree.graph, kind, node) for kind in above}
        assert tree.ancestors(node) == paths
        assert tree.depth(node) == paths["thing"]
        below = nx.descendants(tree.graph, node) | {node}
        assert tree.leaves_under(node) == below & set(tree.leaves)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_lowest_common_hypernym_is_the_best_of_all_nodes(tree, size):
    for concepts in combinations(tree.leaves, size):
        candidates = []
        for node in tree.graph:
            if set(concepts) <= tree.leaves_under(node):
                height = np.mean([nx.shortest_path_length(tree.graph, node, c) for c in concepts])
                candidates.append((len(tree.leaves_under(node)), height, node))
        _, height, node = min(candidates)
        assert tree.lowest_common_hypernym(concepts) == (node, height)


def test_common_depths_are_those_of_the_deepest_common_kind(tree):
    found = tree.common_depths(tree.leaves)
    for (i, a), (j, b) in combinations_with_replacement(enumerate(tree.leaves), 2):
        deepest = max(tree.depth(node) for node in set(tree.ancestors(a)) & set(tree.ancestors(b)))
        assert found[i, j] == found[j, i] == deepest
    assert (tree.common_depths(["tuna", "pizza"]) == [[3, 1], [1, 2]]).all()


def test_a_tree_is_asked_by_any_spelling_of_a_name(tmp_path):
    content = {
        "schema_version": 1,
        "name": "small",
        "edges": [("Food", "Piñata"), ("Food", "turkey"), ("Food", "Turkey")],
    }
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "tree.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
        tree = ConceptTree.load(tmp_path / "tree.json")
        assert tree.depth("pin\u0303ata") == 1 and tree.ancestors("PIÑATA") == {"Piñata": 0, "Food": 1}
        assert tree.ancestors("turkey") == {"turkey": 0, "Food": 1}, "a name as it is written comes first"
        assert tree.lowest_common_hypernym(["pin\u0303ata", "turkey"]) == ("Food", 1.0)
        assert tree.common_depths(["pin\u0303ata", "turkey"]).tolist() == [[1, 0], [0, 1]]
        with pytest.raises(ValueError, match=r"'TURKEY' is not in the tree 'small'; it has \['turkey', 'Turkey'\]"):
            tree.depth("TURKEY")


def test_several_roots_share_nothing():
    tree = ConceptTree.from_edges([("a", "x"), ("b", "y")])
    assert tree.common_depths(["x", "y"]).tolist() == [[1, -1], [-1, 1]]
    with pytest.raises(ValueError, match="several roots"):
        tree.lowest_common_hypernym(["x", "y"])


def test_it_reads_back(tree, tmp_path):
    tree.save(tmp_path / "tree.json")
    again = ConceptTree.load(tmp_path / "tree.json")
    assert set(again.graph.edges) == set(EDGES) and again.name == "small"
    for content, message in (
        ("{", "no tree"),
        ("[]", "no tree"),
        (json.dumps({"schema_version": 9, "name": "x", "edges": []}), "9"),
        (json.dumps({"schema_version": 1, "name": "x", "edges": []}), "empty"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            ConceptTree.load(tmp_path / "bad.json")


def test_bad_requests_are_refused(tree):
    with pytest.raises(ValueError, match="a > b|b > a"):
        ConceptTree.from_edges([("a", "b"), ("b", "a")])
    with pytest.raises(ValueError, match="'unicorn' is not in the tree 'small'"):
        tree.depth("unicorn")
    with pytest.raises(ValueError, match="'pet' is a kind"):
        tree.common_depths(["pet"])
    with pytest.raises(ValueError, match="no concepts"):
        tree.lowest_common_hypernym([])


def test_wordnet():
    """Known values of WordNet 3.0; needs its data, which tests do not download."""
    nltk = pytest.importorskip("nltk")
    try:
        nltk.corpus.wordnet.ensure_loaded()
    except LookupError:
        pytest.skip("WordNet is not on this machine")
    tree = ConceptTree.from_wordnet(["n01440764", "goldfish.n.01"])  # tench and goldfish
    assert tree.lowest_common_hypernym(["tench.n.01", "goldfish.n.01"]) == ("cyprinid.n.01", 1.0)
    with pytest.raises(ValueError, match="nonsense"):
        ConceptTree.from_wordnet(["nonsense"])


def test_without_wordnet_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk.corpus", None)
    with pytest.raises(ImportError, match=r"cbsae_hub\[wordnet\]"):
        ConceptTree.from_wordnet(["dog.n.01"])
