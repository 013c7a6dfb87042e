# A worker's image: both stages, the flows and their configurations, on CPU or (with NVIDIA's container runtime) GPU.
#   docker build -t sward:0.1.0 .
# Data, stores and runs are mounted: /data and /sward/runs (see prefect-container-pool.json).
FROM python:3.12-slim-bookworm

RUN useradd --create-home --uid 1000 sward && mkdir -p /sward/runs /data && chown -R sward:sward /sward /data
USER 1000
ENV PATH=/home/sward/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    DO_NOT_TRACK=1 \
    SWARD_DATA=/data \
    SAM2_BUILD_CUDA=0
WORKDIR /sward

# The libraries change less often than the code: a layer of their own. torch first, because sam2 builds against it.
COPY --chown=sward:sward pyproject.toml constraints.txt README.md ./
RUN python -m venv /home/sward/venv \
    && python -m pip install -c constraints.txt torch numpy setuptools wheel \
    && mkdir sward pipeline flows && touch sward/__init__.py pipeline/__init__.py flows/__init__.py \
    && python -m pip install -c constraints.txt --no-build-isolation '.[teacher,dask,flows,export]' \
    && python -m pip uninstall -y sward && rm -rf build sward.egg-info

COPY --chown=sward:sward . .
RUN python -m pip install --no-deps --no-build-isolation -e .

# A worker of the pool gives its own command; by hand: docker run --rm sward:0.1.0 sward plan configs/quickstart/cache.yaml
CMD ["sward", "--help"]
