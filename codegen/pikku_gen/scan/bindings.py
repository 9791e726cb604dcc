"""The names that the statements of a body bind."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst


def bound_names(node: cst.CSTNode) -> Iterator[str]:
    """Every name that statements below a node bind, once for each place that binds it."""
    match node:
        case cst.Assign():
            for target in node.targets:
                yield from names_of_target(target.target)
        case cst.AnnAssign() | cst.AugAssign() | cst.NamedExpr():
            yield from names_of_target(node.target)
        case cst.For() | cst.CompFor():
            yield from names_of_target(node.target)
        case cst.AsName():
            yield from names_of_target(node.name)
        case cst.ImportAlias():
            yield node.evaluated_alias or node.evaluated_name.partition(".")[0]
        case cst.MatchAs():
            yield from names_of_target(node.name) if node.name else ()
        case cst.FunctionDef():
            yield node.name.value
            for parameter in parameters_of(node):
                yield parameter.name.value
        case _:
            pass
    if not isinstance(node, (cst.Name, cst.BaseParenthesizableWhitespace)):
        for child in node.children:
            yield from bound_names(child)


def names_of_target(node: cst.CSTNode) -> Iterator[str]:
    """The names that an assignment to a target binds."""
    if isinstance(node, cst.Name):
        yield node.value
    elif isinstance(node, (cst.Tuple, cst.List)):
        for element in node.elements:
            yield from names_of_target(element.value)


def parameters_of(function: cst.FunctionDef) -> list[cst.Param]:
    """The parameters that may be given by their place."""
    return [*function.params.posonly_params, *function.params.params]
