# The edge runtime: runs bundles, has no torch. From the repository's root:
#   docker build -f deploy/edge.Dockerfile -t rgbt-fusion:edge .
# With NVIDIA's CUDA and cuDNN libraries, for machines with a GPU:
#   docker build -f deploy/edge.Dockerfile -t rgbt-fusion:edge-cuda --build-arg EXTRAS='[cuda]' .
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY data data
COPY export export
COPY fusion fusion
COPY pipelines pipelines
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
# OpenCV's wheel needs these two libraries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
ARG EXTRAS=""
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)${EXTRAS}"
RUN useradd --create-home rgbt
USER rgbt
WORKDIR /out
# A build that cannot run a bundle fails here.
RUN rgbt doctor
ENTRYPOINT ["rgbt"]
CMD ["--help"]
