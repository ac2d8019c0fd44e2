"""`dvc.yaml` against the code, and the rules of the design that no other tool checks."""

import ast
import inspect
import sqlite3
import textwrap
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from dvc.utils import dict_sha256
from dvc_data.hashfile.meta import Meta

from nmt.config import Params, Section, load_params, load_yaml
from tests.project import ROOT, Project

PACKAGE = ROOT / "src" / "nmt"
STAGES = load_yaml(ROOT / "dvc.yaml")["stages"]
MODULES = sorted(PACKAGE.rglob("*.py"))

PLUMBING = {
    "nmt",
    "nmt.config",
    "nmt.errors",
    "nmt.files",
    "nmt.identity",
    "nmt.lifeline",
    "nmt.lockfile",
    "nmt.paths",
    "nmt.records",
    "nmt.stages",
    "nmt.stages.runner",
    "nmt.tracking",
    "nmt.unfinished",
}
"""Modules, and all behind them, that cannot change a number: a stage need not run again when they change."""


def module_file(module: str) -> Path | None:
    """The file of a module of ours, or None if `nmt.x.y` is a name inside `nmt.x`."""
    path = ROOT / "src" / Path(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def syntax(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text("utf-8"), path.name)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, lazy imports in functions included, without what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from executed(child)


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a file imports; of `from nmt.a import b` both `nmt.a` and, where it is a module, `nmt.a.b`."""
    found: set[str] = set()
    for node in executed(syntax(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if not name.startswith("nmt.") or module_file(name))


def is_plumbing(module: str) -> bool:
    """Whether a module is, or belongs to a package that is, on the list."""
    return module in PLUMBING or any(module.startswith(f"{name}.") for name in PLUMBING - {"nmt", "nmt.stages"})


def closure(module: str) -> set[str]:
    """The module and those of ours that it imports, directly or through others, less the plumbing."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] != "nmt" or is_plumbing(name):
            continue
        seen.add(name)
        file = module_file(name)
        assert file, name
        todo += [name.rpartition(".")[0], *imports(file)]
    return seen


def dependency(module: str) -> str:
    """What `dvc.yaml` names for a module: its file, or the whole folder of a package such as `nmt.model`."""
    parts = module.split(".")
    if parts[1] != "stages" and (PACKAGE / parts[1]).is_dir():
        return f"src/nmt/{parts[1]}"
    return f"src/{'/'.join(parts)}.py"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs(stage: str) -> None:
    """A module left out would keep stale results; one too many would train again for nothing."""
    declared = {dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")}
    assert declared == {dependency(module) for module in closure(f"nmt.stages.{stage}")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_unpickled(path: Path) -> None:
    """No module imports pickle or a reader that uses it, and arrays are read with `allow_pickle=False`."""
    unsafe = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not {name.partition(".")[0] for name in names} & unsafe, path
        if isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in ("torch.load", "pd.read_pickle", "eval", "exec"), f"{path}, line {node.lineno}"
            assert name != "np.load" or keywords.get("allow_pickle") == "False", f"{path}, line {node.lineno}"


class ParamsReads(ast.NodeVisitor):
    """Dotted keys that a function, or a module's functions, read from a `Params`; followed where it is passed on."""

    def __init__(self, path: Path, names: set[str]) -> None:
        self.path, self.names, self.keys = path, names, set[str]()
        self.sections = dict[str, str]()  # local name -> the section that it stands for

    def visit_Assign(self, node: ast.Assign) -> None:
        name, _, key = ast.unparse(node.value).partition(".")
        section = key and name in self.names and section_of(key.split("."))
        if section and isinstance(node.targets[0], ast.Name):
            self.sections[node.targets[0].id] = key
        else:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = ast.unparse(node).split(".")
        if chain[0] in self.sections:
            self.keys |= fields_read(self.sections[chain[0]], chain[1])
        elif chain[0] in self.names:
            self.keys.add("variants" if chain[1].startswith("variant(") else ".".join(chain[1:]))
        elif chain[0] == "load_params()":
            self.keys.add(".".join(chain[1:]))
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        for place, argument in [*enumerate(node.args), *((word.arg, word.value) for word in node.keywords)]:
            if isinstance(argument, ast.Name) and argument.id in self.names:
                self.keys |= self._keys_read_by(node, place)
            else:
                self.visit(argument)
        self.visit(node.func)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.names and isinstance(node.ctx, ast.Load):
            pytest.fail(f"{self.path}, line {node.lineno}: a Params goes where this test cannot follow it")

    def _keys_read_by(self, call: ast.Call, place: int | str | None) -> set[str]:
        name = ast.unparse(call.func).split(".")
        for module in [self.path, *filter(None, map(module_file, imports(self.path)))]:
            if len(name) == 2 and module.stem != name[0]:
                continue
            for node in syntax(module).body:
                if isinstance(node, ast.FunctionDef) and node.name == name[-1]:
                    parameters = [parameter.arg for parameter in [*node.args.posonlyargs, *node.args.args]]
                    return keys_read(module, node, parameters[place] if isinstance(place, int) else str(place))
        pytest.fail(f"{self.path}, line {call.lineno}: {'.'.join(name)} takes a Params, and is not found")


def section_of(key: Sequence[str]) -> type[Section] | None:
    """The class of a section of `Params`; None of a single value."""
    found: type[Section] = Params
    for name in key:
        field = found.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return None
        found = field.annotation
    return found


def fields_read(key: str, name: str) -> set[str]:
    """What `name` of a section is: its field, or the fields that a method of it reads."""
    section = section_of(key.split("."))
    assert section is not None
    if name in section.model_fields:
        return {f"{key}.{name}"}
    method = ast.parse(textwrap.dedent(inspect.getsource(getattr(section, name))))
    chains = (ast.unparse(node).split(".") for node in ast.walk(method) if isinstance(node, ast.Attribute))
    return {f"{key}.{chain[1]}" for chain in chains if chain[0] == "self"}


def keys_read(path: Path, function: ast.FunctionDef, *names: str) -> set[str]:
    """The keys that a function reads from its arguments `names`, or from what it loads itself."""
    loaded = {
        ast.unparse(node.targets[0])
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "load_params()"
    }
    reads = ParamsReads(path, loaded | set(names))
    for statement in function.body:
        reads.visit(statement)
    return reads.keys


def sections_read(stage: str) -> set[str]:
    """The keys that a stage's own file reads, a section at least."""
    path = PACKAGE / "stages" / f"{stage}.py"
    main = next(node for node in syntax(path).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    return keys_read(path, main)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_params_that_it_reads(stage: str) -> None:
    """A section read in secret would not make DVC run the stage again; one declared for nothing would."""
    declared = {key.replace("variants.${item.variant}", "variants") for key in STAGES[stage]["params"]}
    read = sections_read(stage)
    assert not {key for key in read if not any(f"{key}.".startswith(f"{known}.") for known in declared)}, "not declared"
    assert not {known for known in declared if not any(f"{key}.".startswith(f"{known}.") for key in read)}, "not read"


def test_only_stages_commands_and_tracking_load_params() -> None:
    """The library takes values or sections, so that it never knows more than it needs."""
    doors = {PACKAGE / "stages", PACKAGE / "commands", PACKAGE / "tracking"}
    loading = {path for path in MODULES if "nmt.config" in imports(path) and "load_params(" in path.read_text("utf-8")}
    assert {path for path in loading if not doors & set(path.parents)} == set()
    assert loading


def test_a_stage_is_a_file_of_its_name() -> None:
    """Stage, file and command share one name."""
    files = {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__", "runner"}
    assert files == set(STAGES)
    for name, stage in STAGES.items():
        arguments = "".join(f" ${{item.{key}}}" for key in stage.get("matrix", {}))
        assert stage["cmd"] == f"exec env PYTHONPATH=src python -m nmt.stages.{name}{arguments}"
        assert stage["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_as_a_recipe(stage: str) -> None:
    """Its docstring says what it reads and writes and by which params, and `main` is short."""
    tree = syntax(PACKAGE / "stages" / f"{stage}.py")
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    text = f"{ast.get_docstring(tree)}\n{ast.get_docstring(main)}"
    starts = {line.split()[0].rstrip(":") for line in text.splitlines() if line.strip()}
    assert {"Reads", "Writes", "Params"} - starts == set()
    documented = len((ast.get_docstring(main, clean=False) or "").splitlines())
    assert (main.end_lineno or 0) - main.lineno - documented <= 25


def test_params_yaml_is_what_the_code_knows() -> None:
    """Every key is there and none is unknown; the sections stand in the same order."""
    load_params(ROOT / "params.yaml")
    assert list(load_yaml(ROOT / "params.yaml")) == list(Params.model_fields)


def relative(path: Path) -> str:
    """A file's name inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def test_no_parameter_has_a_name_that_the_run_cache_leaves_out() -> None:
    """DVC forgets them at every depth, also in params (treeverse/dvc issue 10296), and restores what others made."""
    left_out = {Meta.PARAM_SIZE, Meta.PARAM_NFILES}
    assert dict_sha256({"a": {"size": 1}}, exclude=left_out) == dict_sha256({"a": {"size": 2}}, exclude=left_out)
    params = load_yaml(ROOT / "params.yaml")
    assert dict_sha256(params, exclude=left_out) == dict_sha256(params)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_keeps_the_rules(path: Path) -> None:
    """Imports point one way, folder names stand in one place, and functions stay short."""
    first = relative(path).partition("/")[0]
    used = imports(path)
    if first != "tracking":
        assert not {name for name in used if name.partition(".")[0] == "mlflow"}, "only tracking imports mlflow"
    if first not in ("stages", "commands", "__main__.py"):
        upwards = {name for name in used if name.startswith(("nmt.stages", "nmt.commands"))}
        assert not upwards, "the library imports no verb"
    if first != "paths.py":
        assert not folder_names(syntax(path)), "only paths.py spells the names of folders"
    long = [node.name for node in ast.walk(syntax(path)) if is_long(node)]
    assert not long, "functions of more than 60 lines"
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


def folder_names(tree: ast.Module) -> list[str]:
    """String literals, docstrings aside, that spell a path of ours."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]
    return [
        text
        for text in texts
        for word in text.split()
        if word.strip("'\"`(),.;:").startswith(("data/", "models/", "reports/"))
    ]


def is_long(node: ast.AST) -> bool:
    """Whether a node is a function of more than 60 lines."""
    return isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60


@pytest.mark.xdist_group("dvc")
def test_a_queued_experiment_runs_its_own_code(small_project: Project, tmp_path: Path) -> None:
    """The code that was queued runs, not the workspace's or the editable install's; its runs are in the one store."""
    project = small_project.copy(tmp_path / "project")
    stage = project.folder / "src/nmt/stages/compare.py"
    module = project.folder / "src/nmt/reporting.py"
    module.write_text(module.read_text() + '\nMARK = "as queued"\n')
    write = "nmt.files.write_text(nmt.paths.COMPARISON / 'mark.txt', nmt.reporting.MARK)"
    stage.write_text(stage.read_text() + f"    import nmt.files, nmt.paths, nmt.reporting\n\n    {write}\n")

    project.dvc("exp", "run", "--queue", "--name", "queued", "--set-param", "evaluate.length_bins=3")
    project.run("git", "checkout", "--quiet", "--", "src")
    project.dvc("queue", "start")
    try:
        status = wait_for_queue(project)
    finally:
        project.dvc("queue", "stop", "--kill")
    assert "Success" in status, status + project.dvc("queue", "logs", "queued")
    reference = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/queued").strip()
    assert project.run("git", "show", f"{reference}:reports/comparison/mark.txt") == "as queued"
    assert not (project.folder / "reports/comparison/mark.txt").exists()
    assert project.run("git", "status", "--porcelain") == ""
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        tags = database.execute("select 1 from tags where (key, value) = ('DVC_EXP_NAME', 'queued')").fetchall()
    database.close()
    assert len(tags) == 4  # both models, their comparison, and the one that it became when the mark was added


def wait_for_queue(project: Project) -> str:
    """The queue's table once its task has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = project.dvc("queue", "status")
        if "Success" in status or "Failed" in status:
            return status
        time.sleep(1)
    return status
