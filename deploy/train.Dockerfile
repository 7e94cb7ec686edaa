# Training, evaluation and export, on the CPU or on NVIDIA GPUs. From the repository's root:
#   docker build -f deploy/train.Dockerfile -t rgbt-fusion:train .
# Torch's wheels bring CUDA; the host needs only the driver and the NVIDIA container toolkit.
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY data data
COPY export export
COPY fusion fusion
COPY pipelines pipelines
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[train]"
RUN useradd --create-home rgbt
USER rgbt
WORKDIR /runs
RUN rgbt doctor
ENTRYPOINT ["rgbt"]
CMD ["--help"]
