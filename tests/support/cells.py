"""Cells of notebooks in this process, which has imported already what they import."""

import ast


def run_cell(source: str, names: dict[str, object]) -> object:
    """The value of a cell's last expression, without Jupyter; None where its last line is a statement."""
    *statements, last = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%"))).body
    if not isinstance(last, ast.Expr):
        statements, last = [*statements, last], ast.Expr(ast.Constant(None))
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
