"""Who imports whom, and who knows of the default task."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGES = ("vpl", "simulators", "policies", "checks", "flags", "cluster")
COMMANDS = {path.stem for path in PROJECT.glob("*.py")}
FILES = sorted([*PROJECT.glob("*.py"), *(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))])
TASK_WORDS = ("drawer", "cabinet", "handle_pos", "sektion")


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path, at_import_time_only: bool = False) -> set[str]:
    """Modules that a file imports, those of this project whole: `vpl.columns`, not `vpl`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree)
    if at_import_time_only:
        deferred = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        deferred += [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
        skipped = {id(child) for node in deferred for child in ast.walk(node)}
        nodes = (node for node in nodes if id(node) not in skipped)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            of_module = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            rest = len(of_module) < len(node.names)
            found |= of_module | ({node.module} if rest else set())
    return found


def test_no_module_imports_itself_through_others():
    graph = {name: imported(path, at_import_time_only=True) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_packages_import_no_command():
    for name, path in MODULES.items():
        if name not in COMMANDS:
            assert imported(path) & COMMANDS == set(), name


def test_what_reads_and_writes_datasets_needs_no_simulator():
    heavy = {"torch", "mujoco", "isaaclab", "simulators", "policies", "checks", "flags", "cluster", "ray"}
    for name, path in MODULES.items():
        if name.startswith("vpl."):
            assert {module.partition(".")[0] for module in imported(path)} & heavy == set(), name


def test_the_seam_needs_numpy_and_the_columns_only():
    outside = set()
    seam = ("__init__", "cameras", "variation", "looks", "things")
    for name in seam:
        outside |= {m for m in imported(PROJECT / "simulators" / f"{name}.py", True) if not _is_standard(m)}
    assert outside - {f"simulators.{name}" for name in seam} == {"numpy", "vpl.columns"}


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def code_words(path: Path) -> set[str]:
    """The words of a file's code: names and strings, without comments and docstrings."""
    source = path.read_text()
    prose = {
        (node.value.lineno, node.value.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.string for token in tokens if token.type in (tokenize.NAME, tokenize.STRING) and token.start not in prose
    }


ALLOWED = {
    "vpl.format": "the name of a column of version 1, whose files do not declare their columns",
    "simulators": "the registry: the default task's name, module and class",
    "flags.collect": "the default task's name and its checkpoint's folder",
    "simulators.isaac.assets": "NVIDIA's names of the files, links and joints that it stands in for",
    "simulators.isaac.open_drawer": "the definition of the task in Isaac Lab",
    "simulators.isaac.lab3": "the registry of Isaac Lab's tasks: that definition's module and class",
}


def test_only_the_task_knows_what_it_is_about():
    """Prose and the default task's name aside; what is left is printed with its reason."""
    for name, path in MODULES.items():
        if name == "simulators.tasks.open_drawer":
            continue
        words = {word for word in code_words(path) if any(part in word.lower() for part in TASK_WORDS)}
        words = {word for word in words if "Isaac-Open-Drawer-Franka" not in word}
        if words:
            assert name in ALLOWED, (name, words)
            print(f"{name}: {sorted(words)}: {ALLOWED[name]}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 50, node.name


def test_the_top_level_holds_what_a_person_types_or_imports():
    assert len(COMMANDS) <= 8


def test_failures_are_seldom_caught():
    """In commands, simulators and policies."""
    others = ("vpl", "vpl_saver", "checks", "flags")
    files = [path for path in FILES if module_name(path).partition(".")[0] not in others]
    tries = sum(isinstance(node, ast.Try) for path in files for node in ast.walk(ast.parse(path.read_text())))
    lines = sum(path.read_text().count("\n") for path in files)
    assert tries <= 3 * lines / 1000, f"{tries} in {lines} lines"
