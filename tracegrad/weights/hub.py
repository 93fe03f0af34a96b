"""Models by name on the Hugging Face Hub: ``hf://user/name``, ``hf://user/name@revision``, ``hf://user/name/file``.

Only safetensors files are loaded, as they are exported (`model_file`). What was downloaded once stays in the cache of
huggingface_hub and is found there without a network.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracegrad.errors import CheckpointError
from tracegrad.extras import require
from tracegrad.weights.model_file import ENDING

PREFIX = "hf://"
FILE = f"model{ENDING}"
CARD = "README.md"
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+?))?(?:/([\w.-]+{re.escape(ENDING)}))?")


class HubError(CheckpointError):
    """A model that the hub does not have, does not give to this user, or cannot be asked for."""


@dataclass(frozen=True)
class HubName:
    """A model on the hub: repository ``user/name``, revision (None: the newest) and file."""

    repository: str
    revision: str | None
    file: str

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """The name in a text that begins with `PREFIX`.

        Raises:
            HubError: it is none.
        """
        match = _NAME.fullmatch(text.removeprefix(PREFIX))
        if match is None:
            raise HubError(
                f"{text}: is no name of a model; write {PREFIX}user/name, if needed followed by @revision and "
                f"/file{ENDING} (other formats are not loaded)"
            )
        return cls(match[1], match[2], match[3] or FILE)


def is_hub_name(source: str | Path) -> bool:
    """Whether a source of a network is a name on the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def download(text: str) -> Path:
    """The file of a model, downloaded or from the cache.

    Raises:
        HubError: see `HubName.parse`; there is no such repository, revision or file, or it is private; or there is no
            connection and the file is not in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    name = HubName.parse(text)
    require("huggingface_hub")
    from huggingface_hub import hf_hub_download  # here: loading other files does not need it

    with _named_errors(text):
        return Path(hf_hub_download(name.repository, name.file, revision=name.revision))


def check_push(repository: str) -> None:
    """Check before any work that models can be sent to a repository.

    Raises:
        HubError: no name of a repository, or nobody has logged in.
        MissingExtraError: huggingface_hub is not installed.
    """
    if _REPOSITORY.fullmatch(repository) is None:
        raise HubError(f"push={repository}: is no name of a repository; write user/name, without {PREFIX}")
    require("huggingface_hub")
    from huggingface_hub import HfApi

    with _named_errors(repository):
        HfApi().whoami()


def push(repository: str, model: Path, card: Path, *, private: bool) -> str:
    """Send a model file and its card to a repository, which is created if it does not exist; returns its address.

    Raises:
        HubError: see `check_push`; the user may not write there, or the connection broke. The repository then has
            either both files or neither.
    """
    require("huggingface_hub")
    from huggingface_hub import HfApi

    with _named_errors(repository), tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(model, Path(folder, FILE))
        shutil.copyfile(card, Path(folder, CARD))
        api = HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"tracegrad export: {model.name}"
        )
    return str(address)


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into `HubError`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{what}: is given on request only; ask for access on its page, then hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{what}: no such repository, or a private one of others; check the name, or log in by: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{what}: the repository has no such revision; give a branch, a tag or a commit"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{what}: is not in the cache, and the hub cannot be reached; connect to the internet (is HF_HUB_OFFLINE "
            "set?), or give a file"
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(
            f"{what}: the repository has no such file; name another one, {PREFIX}user/name/FILE{ENDING}"
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise HubError(f"{what}: nobody has logged in; run: hf auth login") from error
    except errors.HfHubHTTPError as error:
        raise HubError(_refusal(what, error)) from error
    except Exception as error:  # of the HTTP client, which differs between versions of huggingface_hub
        raise HubError(
            f"{what}: the hub cannot be reached ({_first_line(error)}); try again later"
        ) from error


def _refusal(what: str, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        advice = "log in by hf auth login with a token that may write there"
        return f"{what}: refused by the hub (status {status}); {advice}"
    return f"{what}: the hub answers with an error ({_first_line(error)}); try again later"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
