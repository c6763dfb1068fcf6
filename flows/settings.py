"""Where things are: read from the environment, overridden by the command line.

WEBTEXT_LAKE          the lake: a directory or an object-store prefix             ./lake
WEBTEXT_HOME          local state: embedded servers, caches, the bundled web      ./.webtext
PREFECT_API_URL       a Prefect server to use instead of the embedded one
MLFLOW_TRACKING_URI   an MLflow server to use instead of the embedded one
WEBTEXT_CONTACT       shown in the crawler's User-Agent: whom a site's owner can write to
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

EXPERIMENT = "webtext"
"""Where all training runs and scores are in MLflow."""


class Settings(BaseSettings):
    """The environment, read when an instance is made."""

    model_config = SettingsConfigDict(env_prefix="WEBTEXT_", extra="ignore")

    lake: str = "./lake"
    home: Path = Path(".webtext")
    contact: str | None = None
    prefect_api_url: str | None = Field(default=None, validation_alias="PREFECT_API_URL")
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
