"""Source of a dataclass or pydantic model, never imported → its fields: JSON types, default and choices of each."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_JSON_TYPES = {
    "bool": "bool", "int": "int", "float": "float", "str": "str", "Path": "str", "PathLike": "str",
    "list": "list", "List": "list", "tuple": "list", "Tuple": "list", "set": "list", "Set": "list",
    "Sequence": "list", "Iterable": "list", "dict": "json", "Dict": "json", "Mapping": "json",
    "PositiveInt": "int", "NonNegativeInt": "int", "PositiveFloat": "float", "NonNegativeFloat": "float",
    "Any": "any", "object": "any",
}  # fmt: skip
_NO_JSON = frozenset({"Type", "type", "Callable", "dtype", "device"})
_WRAPPERS = frozenset({"Annotated", "SkipValidation", "ClassVar", "Final"})
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_UNION = frozenset({"Union", "Optional"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    types:    JSON types that it takes (`bool`, `int`, `float`, `str`, `list`, `json` for an object, `any`), sorted.
    nullable: whether null is among its values.
    default:  as JSON; empty where it is no constant.
    choices:  values that it takes, when no other is; empty: any of its types.
    """

    types: tuple[str, ...]
    nullable: bool
    default: str
    choices: tuple[Any, ...] = ()


class Sources:
    """Parsed modules of one version of a package: their classes and module-level names, whichever module has them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self.names: dict[str, ast.expr] = {}
        self.options: dict[str, ast.expr] = {}
        for text in texts:
            tree = ast.parse(text)
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[node.name] = node
                elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    self.names[node.targets[0].id] = node.value
                elif (
                    isinstance(node, ast.AnnAssign)
                    and isinstance(node.target, ast.Name)
                    and node.value is not None
                ):
                    self.names[node.target.id] = node.value
            self.options |= dict(_options(tree))

    def bounds(self, besides: str) -> dict[str, str]:
        """Field → `above 0, at most 1`, of what pydantic's Field(gt=0, le=1) says in any class but one of that name."""
        found: dict[str, str] = {}
        for name, node in self.classes.items():
            for field in node.body if name != besides else ():
                if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
                    said = {k.arg: ast.unparse(k.value) for k in field.value.keywords if k.arg in _BOUNDS}
                    if said and isinstance(field.target, ast.Name):
                        words = (f"{_BOUNDS[key]} {limit}" for key, limit in said.items())
                        found[field.target.id] = ", ".join(words)
        return found

    def fields(self, class_name: str) -> dict[str, Field]:
        """Fields of a class and its bases by name, private ones left out."""
        node = self.classes[class_name]
        found: dict[str, Field] = {}
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in self.classes:
                found |= self.fields(base.id)
        for name, annotation, value in _annotated(node):
            if not name.startswith("_") and _last_name(annotation) != "ClassVar":
                found[name] = self.field(name, annotation, value)
        return found

    def field(self, name: str, annotation: ast.expr, value: ast.expr | None) -> Field:
        """One field by its annotation and what it is set to."""
        types, nullable, choices = self._types(annotation)
        default = self._default(value)
        if choices is None and "str" in types and not types & {"json", "any", "list"}:
            choices = self._option_choices(name)
        if default == "null":
            nullable = True
        if default not in ("", "null") and choices and json.loads(default) not in choices:
            choices = None  # it takes more than the annotation says
        return Field(tuple(sorted(types)), nullable, default, tuple(choices or ()))

    def _types(self, node: ast.expr) -> tuple[set[str], bool, list[Any] | None]:
        """JSON types, whether null is one, and the choices when nothing else is taken."""
        if isinstance(node, ast.Constant):
            if node.value is None:
                return set(), True, []
            if isinstance(node.value, str):
                return self._types(ast.parse(node.value, mode="eval").body)
        if isinstance(node, ast.BinOp):
            return self._union([node.left, node.right])
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        name = _last_name(node)
        if name in _JSON_TYPES:
            return {_JSON_TYPES[name]}, False, None
        if name in _NO_JSON:
            return set(), False, []
        if name in self.names and not isinstance(self.names[name], ast.Call):
            return self._types(self.names[name])
        if name in self.classes:
            return self._class(self.classes[name])
        return ({"json"} if name.endswith(("Config", "Args")) else {"any"}), False, None

    def _subscript(self, node: ast.Subscript) -> tuple[set[str], bool, list[Any] | None]:
        name = _last_name(node.value)
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            values = [part.value for part in inside if isinstance(part, ast.Constant)]
            if len(values) != len(inside):
                return {"str"}, False, None
            types = {type(value).__name__ for value in values if value is not None}
            return types, None in values, [value for value in values if value is not None]
        if name in _UNION:
            types, nullable, choices = self._union(inside)
            return types, nullable or name == "Optional", choices
        if name in _WRAPPERS:
            return self._types(inside[0])
        return self._types(node.value)

    def _union(self, parts: list[ast.expr]) -> tuple[set[str], bool, list[Any] | None]:
        types: set[str] = set()
        nullable, choices = False, list[Any]()
        is_closed = True
        for more_types, null, more in map(self._types, parts):
            types |= more_types
            nullable |= null
            is_closed &= more is not None
            choices += more or []
        return types, nullable, choices if is_closed else None

    def _class(self, node: ast.ClassDef) -> tuple[set[str], bool, list[Any] | None]:
        if not any("Enum" in _last_name(base) for base in node.bases):
            return {"json"}, False, None
        values = [
            statement.value.value
            for statement in node.body
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        ]
        types = {type(value).__name__ for value in values} & set(_JSON_TYPES)
        return types or {"any"}, False, values or None

    def _default(self, value: ast.expr | None, depth: int = 0) -> str:
        """JSON of a constant, however it is reached: `1`, `ModelConfig.dtype`, `Field(default=1)`, `get_field(A, "b")`."""
        if value is None or depth > 8:
            return ""
        if isinstance(value, ast.Name) and value.id in self.names:
            return self._default(self.names[value.id], depth + 1)
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
            return self._attribute(value.value.id, value.attr, depth)
        if isinstance(value, ast.Call):
            return self._called(value, depth)
        try:
            return json.dumps(ast.literal_eval(value))
        except (ValueError, TypeError):
            return ""

    def _attribute(self, class_name: str, attribute: str, depth: int) -> str:
        node = self.classes.get(class_name)
        if node is None:
            return ""
        for name, _, value in _annotated(node):
            if name == attribute:
                return self._default(value, depth + 1)
        for statement in node.body:  # a member of an enumeration
            if isinstance(statement, ast.Assign) and _last_name(statement.targets[0]) == attribute:
                return self._default(statement.value, depth + 1)
        for base in node.bases:
            if found := self._attribute(_last_name(base), attribute, depth + 1):
                return found
        return ""

    def _called(self, call: ast.Call, depth: int) -> str:
        if _last_name(call.func) == "get_field" and len(call.args) == 2:
            name = call.args[1]
            assert isinstance(name, ast.Constant)
            return self._attribute(_last_name(call.args[0]), str(name.value), depth)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if "default" in given:
            return self._default(given["default"], depth + 1)
        factory = given.get("default_factory")
        if isinstance(factory, ast.Name) and factory.id in ("list", "dict"):
            return {"list": "[]", "dict": "{}"}[factory.id]
        is_field = _last_name(call.func) in ("Field", "field")
        return self._default(call.args[0], depth + 1) if is_field and call.args else ""

    def _option_choices(self, name: str) -> list[Any] | None:
        option = self.options.get(name)
        if isinstance(option, ast.Name):
            option = self.names.get(option.id)
        if not isinstance(option, ast.List | ast.Tuple):
            return None
        values: list[Any] = []
        for part in option.elts:
            if not isinstance(part, ast.Constant):
                return None
            values.append(part.value)
        return [value for value in values if value not in (None, "None")]


def listed_fields(listing: Mapping[str, Any]) -> dict[str, Field]:
    """TensorRT-LLM's own list of its LLM's parameters (`{methods: {__init__: {parameters: …}}}`) → its fields."""
    sources = Sources(())
    found: dict[str, Field] = {}
    for name, told in listing["methods"]["__init__"]["parameters"].items():
        default = None if told["default"] == "inspect._empty" else ast.Constant(told["default"])
        if name != "kwargs":
            found[name] = sources.field(name, ast.parse(told["annotation"], mode="eval").body, default)
    return found


def _annotated(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.annotation, statement.value


def _options(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """`parser.add_argument("--load-format", choices=…)` → ("load_format", …)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node.func) == "add_argument":
            given: Mapping[str | None, ast.expr] = {keyword.arg: keyword.value for keyword in node.keywords}
            for flag in node.args:
                if isinstance(flag, ast.Constant) and str(flag.value).startswith("--") and "choices" in given:
                    yield str(flag.value)[2:].replace("-", "_"), given["choices"]


def _last_name(node: ast.expr) -> str:
    """`torch.dtype` → `dtype`, `dict[str, int]` → `dict`."""
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
