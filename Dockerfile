# syntax=docker/dockerfile:1.7
# docker build --target cpu -t archlab:cpu .       docker build --target cuda -t archlab:cuda .
# The guide is 07-deployment/README.md.
ARG BASE=python:3.12-slim-bookworm

# The virtual environment is built where the compiler's leftovers and pip's caches stay behind.
FROM ${BASE} AS environment
ENV PATH=/opt/archlab/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/archlab
WORKDIR /build
COPY constraints.txt ./

# PyTorch is most of the image and changes seldom: a layer of its own. Its CUDA build brings CUDA's libraries along, so
# that neither target needs more than a slim base; the driver is the host's.
FROM environment AS torch-cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch
FROM environment AS torch-cuda
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt torch

FROM torch-cpu AS installed-cpu
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt '.[serve,otel]'
FROM torch-cuda AS installed-cuda
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt '.[serve,otel]'

# What both have: a user without rights, and three folders that may be written, each for a volume. The rest of the file
# system may be read-only. Served are the checkpoints inside the package, or those that ARCHLAB_MODELS names below /runs.
FROM ${BASE} AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin archlab \
    && install -d -o archlab -g archlab /keys /index /cache /runs
# hadolint ignore=DL3064 # a path, and no secret
ENV PATH=/opt/archlab/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    ARCHLAB_CACHE=/cache \
    ARCHLAB_INDEX=/index \
    ARCHLAB_API_KEYS=/keys/keys.json \
    ARCHLAB_MODEL_ROOTS=/runs
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# Without the file of keys it ends at once, with one line that says how to make it.
ENTRYPOINT ["archlab"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS cuda
COPY --from=installed-cuda /opt/archlab /opt/archlab
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The last target is the one that is built when none is named.
FROM runtime AS cpu
COPY --from=installed-cpu /opt/archlab /opt/archlab
