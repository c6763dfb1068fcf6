-- Prefect and MLflow each need their own database: both keep a table alembic_version.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
