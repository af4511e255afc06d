"""Reading a YAML file into a strict model, with errors that list every fault: its place, what is wrong, what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import AfterimageError

_FOLDER = Path(__file__).parent

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of all that is read from a file or from another process: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def shipped(kind: str) -> list[str]:
    """Names of the files of a kind (``rigs``, ``models``, ``targets``) that come with the package."""
    return sorted(p.stem for p in (_FOLDER / kind).glob("*.yaml"))


def config_path(kind: str, name_or_path: str | Path) -> Path:
    """The path of a configuration: as given if it ends in .yaml or .yml, else that of the shipped file of that name."""
    path = Path(name_or_path)
    return path if path.suffix in (".yaml", ".yml") else _FOLDER / kind / f"{name_or_path}.yaml"


def read_yaml(path: Path, absent: str, error: type[AfterimageError]) -> Any:
    """The content of a YAML file.

    Args:
        path: of the file.
        absent: the message if there is no such file.
        error: class of the error to raise.

    Raises:
        error: no such file, or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise error(absent) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise error(f"{path}: not YAML: {e}") from e


def validated(raw: Any, model: type[Model], where: Path, error: type[AfterimageError]) -> Model:
    """The content of a file as a model.

    Raises:
        error: an unknown key or a value of the wrong kind; every fault is listed with what came.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        faults = "; ".join(
            f"{'.'.join(str(p) for p in f['loc']) or 'file'}: {f['msg']} (got {str(f['input'])[:60]!r})"
            for f in e.errors()
        )
        raise error(f"{where}: {faults}") from e
