"""Asks the hub, once and quickly, whether a model exists and can be reached, before anything is downloaded."""

import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from okr.errors import ModelLoadError
from okr.loaders.sources import Place

log = logging.getLogger("okr")

_OTHER_WEIGHTS = ["*.bin", "*.pth", "*.pt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "consolidated*", "original/*"]
_TIMEOUT = 10.0  # seconds until the one request gives up; downloads have limits of their own


def endpoint() -> str:
    """The address of the hub or mirror in use (``HF_ENDPOINT``), without any credentials in it."""
    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def revision(place: Place) -> str | None:
    """The hub's commit of the copy in the local cache, or None if there is no copy."""
    file = try_to_load_from_cache(place.location, "config.json")
    return Path(file).parent.name if isinstance(file, str) else None


def reachable(place: Place) -> bool:
    """Whether the hub answers for ``place``. False means that only the copy in the local cache can be used.

    The hub is asked once: the client's own retries would take 23 seconds to find that there is no network.

    Raises:
        ModelLoadError: the hub has no such model or does not grant access to it, or it cannot be reached and the cache
            has no copy. The message names every place that was searched and what to do.
    """
    cached = revision(place) is not None
    try:
        HfApi().model_info(place.location, timeout=_TIMEOUT)
    except GatedRepoError as error:
        raise _not_found(place, "access to it must be granted first", "ask for access on its page, log in") from error
    except RepositoryNotFoundError as error:
        raise _not_found(place, "no such model, or a private one", "check the name, or log in") from error
    except OfflineModeIsEnabled as error:
        if cached:
            return False
        raise _not_found(place, "HF_HUB_OFFLINE is set and it is not in the cache", "unset HF_HUB_OFFLINE") from error
    except Exception as error:  # the client's transport errors have no common public base
        if cached:
            log.warning("%s cannot be reached: %s is taken from the local cache", endpoint(), place.name)
            return False
        what = _status(error) or "it cannot be reached and the model is not in the cache"
        raise _not_found(place, what, "check the network, or set HF_ENDPOINT to a mirror") from error
    return True


def _status(error: Exception) -> str | None:
    """The HTTP status with which the hub answered, in words, or None if it did not answer."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return f"it answered HTTP {code}" if isinstance(error, HfHubHTTPError) and code else None


def _not_found(place: Place, what: str, advice: str) -> ModelLoadError:
    looked = "; ".join((*place.passed, f"hub {place.location} at {endpoint()} ({what})"))
    ways = ", ".join(filter(None, (advice, place.advice, "or give the path of a local folder")))
    return ModelLoadError(f"{place.name} was not found. Looked in: {looked}. What to do: {ways}")


def downloaded(place: Place) -> Path:
    """The folder in the local cache with all files of ``place`` but weights in other formats than safetensors. Raises
    ModelLoadError as :func:`reachable` does, and if the download fails."""
    try:
        return Path(
            snapshot_download(
                place.location,
                ignore_patterns=_OTHER_WEIGHTS,
                local_files_only=not reachable(place),
            )
        )
    except ModelLoadError:
        raise
    except Exception as error:  # the client's transport errors have no common public base
        raise _not_found(place, "its files cannot be downloaded", "try again, or check the disk") from error


def file_of(place: Place, name: str) -> Path | None:
    """The file ``name`` of ``place`` in the local cache, or None if there is no such file. Where the hub cannot be
    asked, that is logged and taken for none."""
    try:
        return Path(hf_hub_download(place.location, name, local_files_only=not reachable(place)))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:  # the client's transport errors have no common public base
        log.info("%s: whether it has a file %s is not known (%s)", place.name, name, type(error).__name__)
        return None
