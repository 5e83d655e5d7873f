# deeprelax on NVIDIA's GPUs: docker build -f docker/cuda.Dockerfile -t deeprelax:cuda . , run with --gpus all
FROM python:3.12-slim-bookworm

# Triton compiles a launcher of each kernel when it first runs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# torch's default wheel brings CUDA along; of the host only the driver is needed.
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt torch setuptools \
    && pip install --no-cache-dir --no-build-isolation -c /src/constraints.txt "/src[screening,report]"

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 1000 --create-home deeprelax
USER 1000
WORKDIR /data
ENTRYPOINT ["deeprelax"]
CMD ["--help"]
