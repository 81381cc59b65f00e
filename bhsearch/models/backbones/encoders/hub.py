"""Encoders of a model hub, named `hf://OWNER/NAME`, which `huggingface_hub` downloads into its cache.

Only configuration, weights and model card are downloaded, never code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bhsearch.config.parsing import split_pooling
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.encoders.config import CONFIG

PREFIX = "hf://"
_NAME = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[^@]+))?")
_FILES = (CONFIG, "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json", "README.md")


@dataclass(frozen=True)
class HubEncoder:
    """An encoder of a model hub.

    Attributes:
        owner: User or organisation.
        name: Name of the model.
        revision: Commit, branch or tag; None for the newest commit.
        pooling: One of `config.parsing.POOLINGS`; None for the pooling of the encoder's library.
    """

    owner: str
    name: str
    revision: str | None
    pooling: str | None

    @classmethod
    def of(cls, given: str) -> HubEncoder:
        """Parse `hf://OWNER/NAME`, optionally followed by `@REVISION` and `@POOLING`.

        Raises:
            BackboneError: If the text has another form.
        """
        path, pooling = split_pooling(given)
        match = _NAME.fullmatch(path.removeprefix(PREFIX))
        if match is None:
            raise BackboneError(
                f"An encoder of a model hub is named hf://OWNER/NAME, optionally followed by @REVISION and @POOLING, "
                f"but got {given!r}."
            )
        return cls(match["owner"], match["name"], match["revision"], pooling)

    @property
    def repository(self) -> str:
        """Name of the repository as `OWNER/NAME`."""
        return f"{self.owner}/{self.name}"

    def folder(self) -> Path:
        """Return the folder of the encoder; its files are downloaded if they are not in the cache of `huggingface_hub`.

        Raises:
            BackboneError: If `huggingface_hub` is not installed, or the files cannot be downloaded and are not in the
                cache.
        """
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import (
                GatedRepoError,
                HfHubHTTPError,
                LocalEntryNotFoundError,
                RepositoryNotFoundError,
                RevisionNotFoundError,
            )
        except ImportError:
            raise BackboneError(
                f"{PREFIX}{self.repository} needs the package huggingface_hub. Install it with pip install "
                "'bhsearch[hub]', or download the folder of the encoder and give its path."
            ) from None
        try:
            return Path(snapshot_download(self.repository, revision=self.revision, allow_patterns=list(_FILES)))
        except GatedRepoError:
            reason = (
                f"its licence must be accepted first. Accept it at https://huggingface.co/{self.repository}, and log "
                "in with hf auth login."
            )
        except RevisionNotFoundError:
            reason = f"it has no revision {self.revision!r}. Check the text after @."
        except RepositoryNotFoundError:
            reason = "there is no such repository, or it is private. Check the name, or log in with hf auth login."
        except LocalEntryNotFoundError:
            reason = (
                "the hub cannot be reached, and the cache of huggingface_hub does not contain it. Connect to the "
                "network, or copy the folder of the encoder from another machine and give its path."
            )
        except (HfHubHTTPError, OSError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise BackboneError(f"Cannot download {PREFIX}{self.repository}: {reason}")
