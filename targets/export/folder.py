"""Putting an exported project into a folder, so that what looks whole is whole.

Everything is written to a hidden folder inside first; then what an earlier export left is removed and the new files
are moved into place. The manifest is the first to go and the last to come, next to CMakeLists.txt: whatever stops
this in between, no folder stays behind that passes for a project.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...ir.errors import FusewireError
from ..program import LibraryStep
from ..runnable import Runnable
from ..target import Target
from .project import MANIFEST, Project, make_project

_LAST = ("CMakeLists.txt", MANIFEST)


def export_c(
    runnable: Runnable, target: Target, mod_name: str, folder: str | os.PathLike[str], overwrite: bool = False
) -> Path:
    """Write a program as a C project; see `CompiledModule.export_c`.

    Raises:
        FusewireError: there are library steps, or the folder is in the way or cannot be written.
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise FusewireError(f"export_c takes the path of a folder, got {folder!r}")
    calls = [step for step in runnable.program.leaf_steps() if isinstance(step, LibraryStep)]
    if calls:
        named = ", ".join(f"{step.name} ({step.composite})" for step in calls)
        raise FusewireError(
            f"a C project has no library calls, but the module has {len(calls)}: {named}; build it without -libs= "
            f"(the target is '{target}')"
        )
    path = Path(folder)
    old = _files_of_export(path)
    if old is None and not overwrite:
        raise FusewireError(
            f"{path} has contents that export_c did not write; take another folder, or overwrite=True to put the "
            f"project among them"
        )
    project = make_project(runnable, target, mod_name)
    try:
        _write(path, project, old or [])
    except (OSError, ValueError) as error:
        raise FusewireError(f"cannot write the C project to {path}: {error}") from error
    return path


def _files_of_export(folder: Path) -> list[str] | None:
    """The files of a former export in `folder`; none where there is nothing, and None where there is something else.

    Raises:
        FusewireError: `folder` is a file, or cannot be read.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return []
        if not folder.is_dir():
            raise FusewireError(f"{folder} is a file; export_c takes a folder, existing or not")
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return None
        raise FusewireError(f"cannot read {folder}: {error}") from error
    except (ValueError, KeyError, TypeError):
        return None
    inside = isinstance(files, list) and all(isinstance(f, str) and _is_inside(f) for f in files)
    return files if inside else None


def _is_inside(path: str) -> bool:
    return bool(path) and not os.path.isabs(path) and ".." not in Path(path).parts


def _write(folder: Path, project: Project, old: Sequence[str]) -> None:
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as name:
            staged = Path(name)
            files = _stage(staged, project)
            for path in (*reversed(_LAST), *old):
                (folder / path).unlink(missing_ok=True)
            for path in (*(f for f in files if f not in _LAST), *_LAST):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged / path, folder / path)
    except BaseException:
        if created:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _stage(folder: Path, project: Project) -> list[str]:
    """Write all files below `folder`; returns their paths, the manifest's too."""
    for path, text in project.texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    files = sorted(project.texts)
    if project.weights_path:
        with (folder / project.weights_path).open("wb") as file:
            file.writelines(project.weights.pieces())
        files.append(project.weights_path)
    files.append(MANIFEST)
    manifest = {**project.manifest, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return files
