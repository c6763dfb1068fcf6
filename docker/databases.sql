-- Prefect and MLflow both keep an alembic_version table: each has a database of its own.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
