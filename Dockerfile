# One image for the Prefect server, MLflow and the workers.
#   docker build -t webtext .
#   docker build -t webtext --build-arg PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" .   without CUDA
FROM docker.io/library/python:3.11-slim-bookworm

ARG PIP_FLAGS=""
WORKDIR /app

COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY data ./data
COPY model ./model
COPY flows ./flows
RUN pip install --no-cache-dir ${PIP_FLAGS} --constraint constraints.txt ".[server]"

COPY prefect.yaml ./
RUN useradd --create-home webtext && mkdir -p /lake /state && chown webtext /lake /state
USER webtext
ENV WEBTEXT_LAKE=/lake WEBTEXT_HOME=/state PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["webtext", "--help"]
