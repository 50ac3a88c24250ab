"""Runs a notebook's code cells in order, as a kernel does: ``python cells.py FILE [FOLDER]``.

What a cell's last line gives is shown as a notebook shows it: into the folder as a file, where it
has a picture or a page. One process, no kernel, and no connection to anywhere.
"""

import ast
import json
import socket
import sys
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[str]:
    """Give the source of each."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(path: Path, folder: Path | None = None) -> None:
    """Run all cells in one namespace; an error ends it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(code_cells(path)):
        body = ast.parse(source, f"cell {number}")
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, f"cell {number}", "exec"), names)
        if last is None:
            continue
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        if value is not None:
            sys.stdout.write(f"cell {number}: {show(value, number, folder)}\n")
            sys.stdout.flush()


def show(value: Any, number: int, folder: Path | None) -> str:
    """Give what a notebook makes of a value: a picture, a page, or its words."""
    for method, kind in (("_repr_svg_", "svg"), ("_repr_html_", "html")):
        if hasattr(value, method):
            content = getattr(value, method)()
            if folder:
                (folder / f"{number:02d}.{kind}").write_text(content, encoding="utf-8")
            return f"{kind}, {len(content):,} characters"
    return repr(value)


def refuse(*_: Any) -> None:
    """Stand in for whatever connects."""
    raise OSError("the notebook may not use the network")


if __name__ == "__main__":
    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    run(Path(sys.argv[1]), *map(Path, sys.argv[2:3]))
