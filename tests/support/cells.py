"""Runs cells of notebooks in this process, which has already imported what they import."""

import ast


def run_cell(source: str, names: dict[str, object]) -> object:
    """The value of a cell's last expression, without Jupyter; None if its last line is a statement."""
    statements = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%"))).body
    last = statements.pop() if isinstance(statements[-1], ast.Expr) else None
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
