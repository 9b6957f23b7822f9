# syntax=docker/dockerfile:1
# The gateway's image: the client, and the gateway with what the chart's options need; without torch and Triton. Build
# from the repository's root:
#   docker build -f deploy/gateway.Dockerfile -t wan-t2v-gateway:0.1.0 .
# Pin the base by digest for a reproducible build: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE}
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY constraints.txt /src/
COPY client /src/client
COPY gateway /src/gateway
RUN pip install --constraint /src/constraints.txt /src/client '/src/gateway[tracing]' && rm -r /src
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["wan-t2v-gateway"]
