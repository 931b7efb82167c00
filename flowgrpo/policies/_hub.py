"""Models of the hub that can't be had, in one sentence and before anything is loaded."""

from pathlib import Path

from huggingface_hub import model_info, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT
from flowgrpo.core.paths import locate

PATIENCE = 30.0
"""Seconds that the hub may take to answer."""


def require_reachable(model: str, revision: str | None) -> None:
    """Errors: UserError where a model is neither on this disk nor to be had from the hub."""
    if on_this_disk(model, revision):
        return
    try:
        model_info(model, revision=revision, timeout=PATIENCE)
    except GatedRepoError as error:
        raise _missing(model, "accept its licence on its page of the hub, then run `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise _missing(model, f"it has no revision '{revision}'") from error
    except RepositoryNotFoundError as error:
        raise _missing(model, "there is no such folder here, and no such model on the hub that you may see") from error
    except Exception as error:
        raise _missing(model, f"it is not on this disk, and the hub can't be reached ({type(error).__name__})") from error


def on_this_disk(model: str, revision: str | None) -> Path | None:
    """The folder of a model that is here, the hub's cache included; None for a loaded one, which is nobody's file."""
    if model.startswith(OBJECT):
        return None
    if locate(model).exists():
        return locate(model)
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def _missing(model: str, reason: str) -> UserError:
    return UserError(f"model '{model}' can't be downloaded: {reason}; with --tiny, train rehearses the recipe without it")
