"""What may be wrong with a machine or a project folder: each check gives findings, each finding says what to do."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nmt import mending, paths
from nmt.config import load_params, load_yaml
from nmt.corpora import load_corpus
from nmt.errors import UserError, without_secrets
from nmt.processes import cores
from nmt.repository import dvc, git, has
from nmt.tracking import place

OK, NOTE, BROKEN = "ok", "note", "BROKEN"
PYTHONS = ((3, 11), (3, 13))
REQUIREMENTS = Path("requirements.lock")
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)")
_ENOUGH_GB, _LITTLE_GB = 10.0, 1.0
_SECONDS = 15  # for a remote, or a driver, to answer
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, and what to do unless it stands well."""

    state: str
    subject: str
    text: str

    def __str__(self) -> str:
        return without_secrets(f"{self.state:<6} {self.subject:<10} {self.text}")


Check = Callable[[], Iterator[Finding]]


def diagnose() -> Iterator[Finding]:
    """All findings; a check that itself fails is a finding, too."""
    for check in CHECKS:
        try:
            yield from check()
        except (UserError, ImportError, OSError) as error:  # a package that is not there, or cannot be loaded
            yield Finding(BROKEN, check.__name__, next(iter(str(error).splitlines()), type(error).__name__))


def python() -> Iterator[Finding]:
    """The version, and whether DVC's stages would get this very Python."""
    version, (oldest, newest) = sys.version_info[:2], PYTHONS
    fits = oldest <= version <= newest
    wanted = f"Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
    todo = "" if fits else f": {wanted} is needed; `make setup PYTHON=python3.12` chooses one"
    yield Finding(OK if fits else BROKEN, "python", f"{sys.version.partition(' ')[0]} in {sys.prefix}{todo}")
    found = shutil.which("python")
    if found and Path(found).absolute().parent.parent == Path(sys.prefix).absolute():
        yield Finding(OK, "PATH", f"`python` is {found}")
    else:
        yield Finding(
            BROKEN,
            "PATH",
            f"`python` is {found or 'not there'}, and DVC would start stages with it; `source .venv/bin/activate`",
        )


def packages() -> Iterator[Finding]:
    """The installed versions against the pinned ones."""
    if not REQUIREMENTS.exists():
        yield Finding(BROKEN, "packages", f"no {REQUIREMENTS} here; call nmt in the root of the repository")
        return
    pins = [match for line in REQUIREMENTS.read_text("utf-8").splitlines() if (match := _PIN.fullmatch(line.strip()))]
    installed = {pin["name"]: _installed(pin["name"]) for pin in pins}
    wrong = [pin for pin in pins if installed[pin["name"]] != pin["version"]]
    if not wrong:
        yield Finding(OK, "packages", f"all {len(pins)} as pinned in {REQUIREMENTS}")
        return
    named = [f"{pin['name']} {installed[pin['name']] or 'missing'}, not {pin['version']}" for pin in wrong[:_SHOWN]]
    absent = any(installed[pin["name"]] is None for pin in wrong)
    text = f"{len(wrong)} of {len(pins)} not as pinned ({'; '.join(named)}); `make setup` installs the pinned ones"
    yield Finding(BROKEN if absent else NOTE, "packages", text)


def _installed(name: str) -> str | None:
    """The version without what marks a build for one kind of machine."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def repository() -> Iterator[Finding]:
    """git: there at all, with a commit, a name to commit under, and nothing uncommitted."""
    if not has("rev-parse", "HEAD"):
        yield Finding(BROKEN, "git", "no repository with a commit here; results would not know their code: `git clone`")
        return
    if not (has("config", "user.name") and has("config", "user.email")):
        todo = "`git config --global user.name ...` and `user.email ...`; DVC's experiments are commits"
        yield Finding(BROKEN, "git", f"no name to commit under; {todo}")
    changed = git("status", "--porcelain").splitlines()
    commit = git("rev-parse", "--short", "HEAD").strip()
    if changed:
        names = ", ".join(line[3:] for line in changed[:_SHOWN])
        text = f"{commit} and {len(changed)} uncommitted changes ({names}); commit before `nmt sweep` or `nmt promote`"
        yield Finding(NOTE, "git", text)
    else:
        yield Finding(OK, "git", f"{commit}, clean")


def inputs() -> Iterator[Finding]:
    """What the copies of `dvc exp run --temp` and `--queue` would lack: inputs that git does not carry."""
    stages = list(((load_yaml(paths.PIPELINE) or {}).get("stages") or {}).values())
    made = {out for stage in stages for key in ("outs", "metrics", "plots") for out in _names(stage.get(key, []))}
    needed = {dep for stage in stages for dep in stage.get("deps", []) if "${" not in dep and not _is_made(dep, made)}
    names = sorted(needed | {str(paths.PARAMS), str(paths.PIPELINE)})
    tracked = _tracked(*names)
    there = {path.as_posix() for name in names for path in _files(Path(name))}
    missing = sorted(name for name in names if not Path(name).exists())
    if missing:
        text = f"{', '.join(missing)}, which {paths.PIPELINE} names, is not there; `git restore` brings it back"
        yield Finding(BROKEN, "inputs", text)
    left = sorted(there - tracked)
    if left:
        todo = "`git add` it (or stop ignoring it); `dvc exp run --temp` and `--queue` run without it"
        yield Finding(BROKEN, "inputs", f"git does not carry {', '.join(left[:_SHOWN])}; {todo}")
    if private := [path for path in _corpus_files() if path not in _tracked(path)]:
        todo = "an experiment in a copy takes the corpus from DVC's cache, so `dvc repro fetch` once before it"
        yield Finding(NOTE, "inputs", f"{', '.join(private)} is not in git; {todo}")
    if not left and not missing:
        yield Finding(OK, "inputs", f"git carries all {len(there)} files that stages read, so copies have them")


def _tracked(*names: str) -> set[str]:
    """The files that git carries below these names, spelled as they are (-z)."""
    return set(git("ls-files", "-z", "--", *names).split("\0"))


def _corpus_files() -> list[str]:
    """Files of this machine that the corpus is made from, as `data/corpora.yaml` names them."""
    corpus = load_params().corpus
    pins = load_corpus(corpus.name, corpus.source, corpus.target).files.values()
    return [pin.path for pin in pins if pin.path]


def _names(entries: list[object]) -> Iterator[str]:
    for entry in entries:
        yield next(iter(entry)) if isinstance(entry, dict) else str(entry)


def _is_made(dep: str, made: set[str]) -> bool:
    """Whether a stage writes it, writes a folder around it, or writes into it."""
    plain = {out.partition("/${")[0] for out in made} | made
    return any(dep == out or dep.startswith(f"{out}/") or out.startswith(f"{dep}/") for out in plain)


def _files(path: Path) -> Iterator[Path]:
    for one in [path] if path.is_file() else sorted(path.rglob("*")):
        if one.is_file() and "__pycache__" not in one.parts and one.suffix != ".pyc":
            yield one


def remote() -> Iterator[Finding]:
    """DVC's remote: set, and answering."""
    if not dvc("remote", "list").strip():
        todo = "`dvc remote add --default NAME URL` and `dvc push` keep them elsewhere, too"
        yield Finding(NOTE, "DVC remote", f"none: data and models are on this machine alone; {todo}")
        return
    try:
        done = subprocess.run([sys.executable, "-c", _ASK_REMOTE], capture_output=True, timeout=_SECONDS, check=False)
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        fault = (said or ["no reason given"])[-1] if done.returncode else None
    except subprocess.TimeoutExpired:
        fault = f"nothing for {_SECONDS} seconds"
    if fault is None:
        yield Finding(OK, "DVC remote", f"{dvc('remote', 'list').split()[0]} answers")
    else:
        text = f"does not answer ({fault[:200]}); look at `dvc remote list` and its credentials"
        yield Finding(BROKEN, "DVC remote", text)


# Nothing pushed yet is no fault; but the HTTP client says "not found" of a server that nobody reached, too.
_ASK_REMOTE = """
from dvc.repo import Repo
store = Repo().cloud.get_remote_odb()
try:
    store.fs.info(store.path)
except FileNotFoundError as missing:
    cause = missing.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise cause
    store.fs.makedirs(store.path, exist_ok=True)
"""


def tracking() -> Iterator[Finding]:
    """MLflow: on, and answering."""
    if reason := place.switched_off():
        yield Finding(NOTE, "MLflow", f"{reason}; stages publish nothing, `nmt publish` does it later")
        return
    uri = place.tracking_uri()
    database = place.sqlite_file(uri)
    if database and not database.exists():
        yield Finding(OK, "MLflow", f"{database} will be made by the first run")
        return
    try:
        place.probe(uri)
    except place.Unavailable as error:
        yield Finding(BROKEN, "MLflow", f"{error}; start it, or unset MLFLOW_TRACKING_URI; training goes on without it")
    else:
        yield Finding(OK, "MLflow", f"{database or uri} answers")


def results() -> Iterator[Finding]:
    """Trained models, as far as a fresh clone may lack them."""
    params = load_params()
    models = [paths.bundle(variant, seed) for variant in params.variants for seed in params.seeds]
    there = sum(model.is_dir() for model in models)
    if there:
        yield Finding(OK, "results", f"{there} of {len(models)} models of {paths.PARAMS} are trained")
    else:
        yield Finding(NOTE, "results", "none yet; `make repro` makes them")


def accelerator() -> Iterator[Finding]:
    """The GPU that torch sees, and one that it does not see."""
    if importlib.util.find_spec("torch") is None:
        yield Finding(BROKEN, "GPU", "torch is not installed; `make setup`")
        return
    import torch

    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        yield Finding(OK, "GPU", f"{', '.join(sorted(names))}, {version}, CUDA {torch.version.cuda}")
    elif (driver := _driver()) is not None:
        todo = "install a build for its driver: pip's own settings choose it (PIP_INDEX_URL)"
        yield Finding(NOTE, "GPU", f"{driver}, but {version} does not use it; {todo}")
    else:
        yield Finding(OK, "GPU", f"none; {version} on {cores()} CPU cores, `runtime.device: auto` takes them")


def kernels() -> Iterator[Finding]:
    """What makes training faster on this CPU."""
    if importlib.util.find_spec("torch") is None:
        return
    from nmt.model.native import library

    if not library.fits_processor():
        yield Finding(OK, "kernels", "none for this CPU; training goes by torch's own operations")
        return
    try:
        library.library()
        yield Finding(OK, "kernels", f"compiled for this CPU, version {library.version()}")
    except library.NoCompiler as error:
        todo = "with a C++ compiler (g++, or CXX=...) training takes two thirds of the time"
        yield Finding(NOTE, "kernels", f"{error}; {todo}")


def _driver() -> str | None:
    """What NVIDIA's own tool says is there."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().replace("\n", "; ") or None if done.returncode == 0 else None


def disk() -> Iterator[Finding]:
    """Room for DVC's cache and for MLflow's artifacts."""
    cache = Path(dvc("cache", "dir").strip())
    place_of_cache = next(folder for folder in [cache, *cache.parents] if folder.exists())
    for name, folder in {"here": Path(), "for DVC's cache": place_of_cache}.items():
        free = shutil.disk_usage(folder).free / 1e9
        state = OK if free >= _ENOUGH_GB else NOTE if free >= _LITTLE_GB else BROKEN
        todo = (
            "" if state == OK else "; `dvc gc --all-commits --all-experiments` and `dvc queue remove --all` make room"
        )
        yield Finding(state, "disk", f"{free:,.0f} GB free {name}{todo}")


def fonts() -> Iterator[Finding]:
    """A font for the Chinese in figures; it comes with a package, whatever the system has."""
    package = importlib.util.find_spec("zhplot")  # found, not imported: its import changes matplotlib's settings
    folders = package.submodule_search_locations if package else None
    found = sorted(path for folder in folders or [] for path in Path(folder).rglob("*.ttf"))
    if found:
        yield Finding(OK, "fonts", f"{found[0].name} for Chinese")
    else:
        yield Finding(BROKEN, "fonts", "none with Chinese characters for the figures; `make setup` brings zhplot's")


def kills() -> Iterator[Finding]:
    """What a killed dvc left half-written."""
    for fault in mending.faults():
        yield Finding(BROKEN, "DVC", f"{fault}, and refuses it now; `nmt mend` puts it right")


CHECKS: tuple[Check, ...] = (
    python,
    packages,
    repository,
    kills,
    inputs,
    remote,
    tracking,
    results,
    accelerator,
    kernels,
    disk,
    fonts,
)
