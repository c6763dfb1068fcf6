"""Settings of this installation: read from the environment, overridden by the command line.

WEBTEXT_LAKE          the lake: a directory or an object-store prefix             ./lake
WEBTEXT_HOME          local state: embedded servers, caches, the bundled web      ./.webtext
PREFECT_API_URL       a Prefect server to use instead of the embedded one
MLFLOW_TRACKING_URI   an MLflow server to use instead of the embedded one
WEBTEXT_CONTACT       a page or address in the crawler's User-Agent, so that site owners can reach you
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

EXPERIMENT = "webtext"
"""The MLflow experiment of all training runs and scores."""


class Settings(BaseSettings):
    """The environment at the time an instance is created."""

    model_config = SettingsConfigDict(env_prefix="WEBTEXT_", extra="ignore")

    lake: str = "./lake"
    home: Path = Path(".webtext")
    contact: str | None = None
    prefect_api_url: str | None = Field(default=None, validation_alias="PREFECT_API_URL")
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")

    @property
    def eval_data(self) -> Path:
        """Where ``webtext eval --fetch`` puts the official files of the benchmarks."""
        return self.home.absolute() / "eval-data"

    def fetched_eval_data(self) -> str | None:
        """The same if anything was fetched."""
        return str(self.eval_data) if self.eval_data.is_dir() else None
