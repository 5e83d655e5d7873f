# deeprelax on CPUs: docker build -f docker/cpu.Dockerfile -t deeprelax .
FROM python:3.12-slim-bookworm

# torch's own index has wheels without CUDA; they satisfy the pin of constraints.txt, and come before those of PyPI.
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch setuptools \
    && pip install --no-cache-dir --no-build-isolation -c /src/constraints.txt "/src[screening,report]"

RUN useradd --uid 1000 --create-home deeprelax
USER 1000
WORKDIR /data
ENTRYPOINT ["deeprelax"]
CMD ["--help"]
