"""Newer syntax in the words of Python 3.11, so that every supported Python reads a file alike."""

from __future__ import annotations

import libcst as cst

from pikku_gen.model.facts import Problem
from pikku_gen.scan.module import parse_module


def downlevel(text: str) -> str | Problem:
    """The text with `type` statements, type parameters and nested f-string quotes replaced.

    Lines stay where they are.
    """
    module = parse_module(text)
    if isinstance(module, Problem):
        return module
    return module.visit(_Downlevel()).code


class _Downlevel(cst.CSTTransformer):
    def leave_TypeAlias(
        self, original_node: cst.TypeAlias, updated_node: cst.TypeAlias
    ) -> cst.BaseSmallStatement:
        target = cst.AssignTarget(updated_node.name)
        return cst.Assign([target], updated_node.value, updated_node.semicolon)

    def leave_ClassDef(
        self, original_node: cst.ClassDef, updated_node: cst.ClassDef
    ) -> cst.ClassDef:
        return updated_node.with_changes(type_parameters=None)

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        return updated_node.with_changes(type_parameters=None)

    def leave_FormattedString(
        self, original_node: cst.FormattedString, updated_node: cst.FormattedString
    ) -> cst.BaseExpression:
        return cst.SimpleString('""', lpar=updated_node.lpar, rpar=updated_node.rpar)
