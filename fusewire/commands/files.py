"""Files that commands write: whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..ir.errors import FusewireError


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to; what is written there becomes `path` at the end, and is deleted if something fails.

    A link is followed; what is no regular file (/dev/null, a named pipe) is not replaced but written to.

    Raises:
        FusewireError: the file cannot be written.
    """
    final = Path(os.path.realpath(path))
    special = final.exists() and not final.is_file()
    folder = Path(tempfile.gettempdir()) if special else final.parent
    temporary = folder / f".{final.stem[:100]}-{secrets.token_hex(6)}{final.suffix}"
    try:
        yield temporary
        if special:
            with temporary.open("rb") as source, final.open("wb") as target:
                shutil.copyfileobj(source, target)
        else:
            temporary.replace(final)
    except OSError as error:
        raise FusewireError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def why_not_writable(path: Path) -> str | None:
    """Why a file cannot be written, as far as can be told before trying."""
    final = Path(os.path.realpath(path))
    if final.is_dir():
        return f"{path} is a folder"
    if not final.parent.is_dir():
        return f"there is no folder {final.parent}"
    if not os.access(final.parent if not final.exists() or final.is_file() else final, os.W_OK):
        return f"{final.parent} cannot be written to"
    return None
