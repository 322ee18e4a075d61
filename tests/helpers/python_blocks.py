"""What can be known of a block of Python without running it: imports, attributes of what was imported, arguments."""

import ast
import builtins
import inspect
from importlib import import_module
from typing import Any

_UNKNOWN = object()


class _Checker(ast.NodeVisitor):
    """Follows names to what they stand for, as far as that can be told, and binds the arguments of calls to it."""

    def __init__(self, known: dict[str, Any]):
        self.known = known
        self.problems: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            module = import_module(alias.name)
            self.known[alias.asname or alias.name.partition(".")[0]] = (
                module if alias.asname else import_module(alias.name.partition(".")[0])
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                self.problems.append(f"line {node.lineno}: {node.module} has no {alias.name}")
            self.known[alias.asname or alias.name] = getattr(module, alias.name, _UNKNOWN)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    self.known[name.id] = _instance(self._made(value))

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        function = self._of(node.func)
        if isinstance(function, _Instance):
            function = function.method("__call__")
        if function is _UNKNOWN or any(isinstance(each, ast.Starred) for each in node.args):
            return
        if any(keyword.arg is None for keyword in node.keywords):
            return
        try:
            inspect.signature(function).bind(*node.args, **{keyword.arg: None for keyword in node.keywords})
        except TypeError as error:
            self.problems.append(f"line {node.lineno}: {ast.unparse(node.func)}: {error}")
        except ValueError:  # built in, without a signature
            pass

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        self._of(node)

    def _of(self, node: ast.AST) -> Any:
        """The object that an expression stands for, or ``_UNKNOWN``."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id, getattr(builtins, node.id, _UNKNOWN))
        if not isinstance(node, ast.Attribute):
            return _UNKNOWN
        owner = self._of(node.value)
        if isinstance(owner, _Instance):
            return owner.method(node.attr)
        if owner is _UNKNOWN:
            return _UNKNOWN
        if not hasattr(owner, node.attr):
            problem = f"line {node.lineno}: {ast.unparse(node.value)} has no {node.attr}"
            self.problems += [problem] if problem not in self.problems else []
        return getattr(owner, node.attr, _UNKNOWN)

    def _made(self, node: ast.AST) -> Any:
        """The class of which a call makes an instance: ``C(...)`` or ``C.from_...(...)``; else ``_UNKNOWN``."""
        if not isinstance(node, ast.Call):
            return _UNKNOWN
        function = self._of(node.func)
        owner = getattr(function, "__self__", None)
        if inspect.isclass(owner) and node.func.attr.startswith("from_"):
            return owner
        return function if inspect.isclass(function) else _UNKNOWN


class _Instance:
    """An instance of a class, of which only the class is known."""

    def __init__(self, cls: type):
        self.cls = cls

    def method(self, name: str) -> Any:
        """A method, bound as far as its signature goes; of what ``__init__`` sets nothing is known."""
        found = inspect.getattr_static(self.cls, name, _UNKNOWN)
        return found.__get__(object(), self.cls) if inspect.isfunction(found) else _UNKNOWN


def _instance(cls: Any) -> Any:
    return cls if cls is _UNKNOWN else _Instance(cls)


def problems_of(code: str, known: dict[str, Any]) -> list[str]:
    """What is wrong with a block; ``known`` are the names of the page's blocks before, and gets those of this one.

    Raises:
        SyntaxError: If it is no Python.
        ImportError: If a module does not exist.
    """
    checker = _Checker(known)
    checker.visit(ast.parse(code))
    return checker.problems
