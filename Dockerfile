# docker build -t vaexprs . && docker run --rm -v "$PWD:/data" -u "$(id -u):$(id -g)" vaexprs fit mine.h5ad --out model
FROM python:3.13-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.13-slim
# the image has no compiler, so every dependency must be a wheel
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --only-binary :all: /wheel/*.whl \
    && useradd --create-home --uid 1000 cells
# caches in folders that any user may write to: a user given with -u has no home folder in the image
ENV XDG_CACHE_HOME=/tmp/cache NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /data
ENTRYPOINT ["vaexprs"]
CMD ["--help"]
