"""The small trained model that lies beside the package in a checkout: converted for as long as it is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from converters.conversion import Conversion

MODELS = Path(__file__).parent.parent.parent / "models"  # beside the package in a checkout; a wheel has none
TINY = MODELS / "tiny"


@contextmanager
def converted(source: Path = TINY) -> Iterator[tuple[Path, Conversion]]:
    """A checkpoint as a bundle among the temporary files, with the drafter that lies beside it, until the block ends.

    Raises InputError where it is not there.
    """
    from converters import convert

    if not source.is_dir():
        raise InputError(
            f"{source}: this model is not part of an installed package; run the command in a clone of the repository, "
            "or name a model"
        )
    drafter = source.with_name(f"{source.name}-assistant")
    with tempfile.TemporaryDirectory(prefix="gemma4gguf-") as folder:
        path = Path(folder) / f"{source.name}.gguf"
        yield path, convert(source, path, quant="Q8_0", drafter=drafter if drafter.is_dir() else None)
