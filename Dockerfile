# Images for head and workers, with what the locks name and nothing else:
#   docker build --target cpu -t registry.example/thinkscale:cpu .
#   docker build --target gpu -t registry.example/thinkscale:gpu .
FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.11.15-slim-bookworm AS base
# wget: KubeRay's health checks; gcc: kernels that are compiled at the first use.
RUN apt-get update \
  && apt-get install -y --no-install-recommends wget gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 ray
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 UV_LINK_MODE=copy RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
WORKDIR /home/ray

FROM base AS cpu
COPY requirements-cpu.lock ./
RUN uv pip install --require-hashes --torch-backend cpu -r requirements-cpu.lock
COPY pyproject.toml README.md LICENSE package/
COPY platform package/platform
RUN uv pip install --no-deps --no-build-isolation ./package
USER 1000

FROM base AS gpu
COPY requirements-gpu.lock ./
RUN uv pip install --require-hashes -r requirements-gpu.lock
COPY pyproject.toml README.md LICENSE package/
COPY platform package/platform
RUN uv pip install --no-deps --no-build-isolation ./package
USER 1000
