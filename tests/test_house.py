"""The rules of the house, held by tests: who may import whom, and how large things grow."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import looptagger

PACKAGE = Path(looptagger.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = [
    {"roles", "errors", "memory", "stopping"},
    {"config", "settings"},
    {"archive", "audio"},
    {"model"},
    {"steps", "learn", "report"},
    {"paper"},
    {"cluster"},
    {"terminal", "logs", "cli", "__main__"},
]
"""From the bottom up: a room imports from its own level or lower ones."""


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_nothing_from_a_stranger_is_unpickled() -> None:
    for path in FILES:
        assert not {
            name
            for name in imports(path)
            if name.split(".")[0] in ("pickle", "cloudpickle", "dill") or name in ("joblib.load", "joblib.dump")
        }
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                assert {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}["weights_only"] == "True"


def test_the_paper_s_libraries_are_imported_in_one_file_each() -> None:
    for package, only in (("essentia", "features.py"), ("skmultilearn", "classic.py")):
        users = {path.name for path in FILES if any(name.split(".")[0] == package for name in imports(path))}
        assert users == {only}


def level(name: str) -> int:
    return next(number for number, rooms in enumerate(LEVELS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_and_only_the_cluster_room_knows_ray(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = imports(path)
    if here != "cluster":
        assert not {name for name in found if name.split(".")[0] == "ray"}
    if here not in ("cli", "terminal"):
        assert not {name for name in found if name.split(".")[0] in ("click", "rich")}
    if here == "__init__":
        return
    for name in found:
        if name.startswith("looptagger."):
            assert level(room(name)) <= level(here), (here, name)


def test_importing_the_pure_rooms_brings_no_ray_and_no_click() -> None:
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES]
    pure = [
        name
        for name in modules
        if room(name) in ("archive", "audio", "model", "steps", "learn", "paper", "config", "roles")
    ]
    script = f"import sys\nfor name in {pure!r}: __import__(name)\n"
    # rich is not in this list: scikit-learn itself imports it
    script += (
        "print([name for name in ('ray', 'click', 'essentia', 'skmultilearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_imports_only_what_it_needs() -> None:
    """torch takes seconds, scikit-learn with SciPy and pandas one: a tagging job's driver needs none of them."""
    script = (
        "import sys, looptagger.cli, looptagger.cluster.tagging_job;"
        "print({'sklearn', 'scipy', 'pandas'} & set(sys.modules));"
        "import looptagger.cluster.tagging; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False"]


def test_files_and_functions_stay_small() -> None:
    lengths = []
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 250, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
    assert statistics.median(lengths) <= 12
    assert max(lengths) <= 45
    for path in (PACKAGE.parent / "jobs").glob("t*.py"):
        assert path.read_text().count("\n") <= 20
