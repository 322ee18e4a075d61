"""Trees of concepts: what is a kind of what."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from cbsae_hub.hub.files import read_text, write_text
from cbsae_hub.words import name_key

SCHEMA_VERSION = 1


class ConceptTree:
    """Concepts and their kinds. A concept may be of several kinds, as in WordNet.

    Args:
        graph: Edges from the general to the special; leaves are the concepts.
        name: Name of the tree.

    Raises:
        ValueError: If it is empty or goes round in a circle.
    """

    def __init__(self, graph: nx.DiGraph, name: str = "tree"):
        if not graph:
            raise ValueError("the tree of concepts is empty")
        if not nx.is_directed_acyclic_graph(graph):
            circle = " > ".join(str(edge[0]) for edge in nx.find_cycle(graph))
            raise ValueError(f"the tree of concepts goes round in a circle: {circle}")
        self.graph, self.name = graph, name

    @classmethod
    def from_edges(cls, edges: Iterable[tuple[str, str]], name: str = "tree") -> "ConceptTree":
        """Makes a tree of pairs (kind, member)."""
        return cls(nx.DiGraph([tuple(edge) for edge in edges]), name)

    @classmethod
    def load(cls, path: str | Path) -> "ConceptTree":
        """Reads a JSON file: ``schema_version``, ``name``, ``edges`` as pairs (kind, member).

        Raises:
            OSError: If there is no such file.
            ValueError: If it is damaged or of another schema version.
        """
        try:
            content = json.loads(read_text(path))
            version, name, edges = content["schema_version"], content["name"], content["edges"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no tree of concepts: {error!r}") from error
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema version {version!r}; this version of cbsae_hub reads {SCHEMA_VERSION}")
        return cls.from_edges(edges, name)

    def save(self, path: str | Path) -> None:
        """Writes the JSON file that :meth:`load` reads."""
        content = {"schema_version": SCHEMA_VERSION, "name": self.name, "edges": sorted(self.graph.edges)}
        write_text(Path(path), json.dumps(content, indent=0) + "\n")

    @classmethod
    def from_wordnet(cls, synsets: Iterable[str]) -> "ConceptTree":
        """The part of WordNet above some synsets, hypernyms and classes of instances.

        Args:
            synsets: Names, ``goldfish.n.01``, or ids as ImageNet's folders have them, ``n01443537``.

        Raises:
            ImportError: If nltk is not installed.
            LookupError: If WordNet is not on this machine.
            ValueError: If there is no such synset.
        """
        graph = nx.DiGraph()
        waiting = [_synset(text) for text in synsets]
        while waiting:
            node = waiting.pop()
            for kind in node.hypernyms() + node.instance_hypernyms():
                if kind.name() not in graph:
                    waiting.append(kind)
                graph.add_edge(kind.name(), node.name())
        return cls(graph, "wordnet")

    @cached_property
    def leaves(self) -> list[str]:
        """The concepts, sorted."""
        return sorted(node for node, below in self.graph.out_degree if not below)

    @cached_property
    def _depths(self) -> dict[str, int]:
        roots = [node for node, above in self.graph.in_degree if not above]
        distances = nx.multi_source_dijkstra_path_length(self.graph, set(roots), weight=None)
        return {node: int(distance) for node, distance in distances.items()}

    @cached_property
    def _leaf_bits(self) -> dict[str, int]:
        """The leaves under each node as the bits of a number."""
        place = {leaf: 1 << i for i, leaf in enumerate(self.leaves)}
        bits: dict[str, int] = {}
        for node in reversed(list(nx.topological_sort(self.graph))):
            bits[node] = place.get(node, 0)
            for below in self.graph.successors(node):
                bits[node] |= bits[below]
        return bits

    def depth(self, node: str) -> int:
        """Steps from the nearest root."""
        return self._depths[self._node(node)]

    def ancestors(self, node: str) -> dict[str, int]:
        """The kinds of a node, itself included, and how many steps up they are."""
        return dict(nx.single_source_shortest_path_length(self.graph.reverse(copy=False), self._node(node)))

    def leaves_under(self, node: str) -> set[str]:
        """The concepts of a kind; of a concept, itself."""
        bits = self._leaf_bits[self._node(node)]
        return {leaf for i, leaf in enumerate(self.leaves) if bits >> i & 1}

    def lowest_common_hypernym(self, concepts: Sequence[str]) -> tuple[str, float]:
        """The narrowest kind that all of some concepts are of (Olson et al., 2025).

        That with the fewest leaves; of several such, that whose mean distance to the concepts is smallest, then the
        first by name.

        Args:
            concepts: One or more leaves.

        Returns:
            The kind, and the mean number of steps from the concepts up to it (the "height").

        Raises:
            ValueError: If a concept is no leaf of the tree, there are none, or they have no kind in common.
        """
        if not concepts:
            raise ValueError("there are no concepts to find the common kind of")
        above = [self.ancestors(concept) for concept in concepts]
        common = set(above[0]).intersection(*above[1:])
        if not common:
            raise ValueError(f"{', '.join(concepts)} have no kind in common: the tree has several roots")

        def rank(node: str) -> tuple[int, float, str]:
            height = sum(distances[node] for distances in above) / len(above)
            return self._leaf_bits[node].bit_count(), height, node

        _, height, node = min(map(rank, common))
        return node, height

    def common_depths(self, concepts: Sequence[str]) -> np.ndarray:
        """Depth of the deepest kind that each two concepts share, ``[concepts, concepts]``; -1 if there is none.

        Raises:
            ValueError: If a concept is not in the tree.
        """
        place = {leaf: i for i, leaf in enumerate(self.leaves)}
        rows = np.array([place.get(self._node(concept), -1) for concept in concepts])
        if (rows < 0).any():
            raise ValueError(f"{concepts[int((rows < 0).argmax())]!r} is a kind, not a concept of the tree")
        depths = np.full((len(self.leaves), len(self.leaves)), -1)
        for node in sorted(self.graph, key=self.depth):  # the deeper ones overwrite those above
            under = np.array([place[leaf] for leaf in self.leaves_under(node)])
            depths[np.ix_(under, under)] = np.maximum(depths[np.ix_(under, under)], self.depth(node))
        return depths[np.ix_(rows, rows)]

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        nodes: dict[str, list[str]] = {}
        for node in self.graph:
            nodes.setdefault(name_key(str(node)), []).append(node)
        return nodes

    def _node(self, node: str) -> str:
        """The node of that name: as it is written, or else the only one with its key."""
        if node in self.graph:
            return node
        if len(same := self._by_key.get(name_key(str(node)), [])) == 1:
            return same[0]
        raise ValueError(f"{node!r} is not in the tree {self.name!r}" + (f"; it has {same}" if same else ""))


def synset_name(text: str) -> str:
    """The name of a synset, ``goldfish.n.01``, by that name or its id; errors as :meth:`ConceptTree.from_wordnet`."""
    return _synset(text).name()


def open_wordnet() -> Any:
    """NLTK's reader of WordNet.

    Raises:
        ImportError: If nltk is not installed.
        LookupError: If WordNet is not on this machine.
    """
    try:
        from nltk.corpus import wordnet
    except ImportError as error:
        raise ImportError("WordNet needs nltk: pip install 'cbsae_hub[wordnet]'") from error
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise LookupError("WordNet is not on this machine: python -m nltk.downloader wordnet") from error
    return wordnet


def _synset(text: str) -> Any:
    wordnet = open_wordnet()
    from nltk.corpus.reader.wordnet import WordNetError

    try:
        by_id = text[:1] == "n" and text[1:].isdigit()
        return wordnet.synset_from_pos_and_offset("n", int(text[1:])) if by_id else wordnet.synset(text)
    except (WordNetError, ValueError) as error:
        raise ValueError(f"WordNet has no synset {text!r}") from error
