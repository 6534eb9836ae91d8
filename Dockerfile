# The server with the shipped models: no torch, no compiler, no pip in its environment, not root.
#
#   docker build --tag elman .
#   docker run --rm --publish 8000:8000 --volume elman-state:/state elman
#   docker run --rm --publish 8000:8000 --volume "$PWD/my-models:/models:ro" elman

ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build

# What the server needs, in a layer that only a change of pyproject.toml renews. The packages' own tests stay out.
# Of plotly only its JavaScript is served, and of simdjson its source is not needed.
COPY pyproject.toml /build/
RUN cd /build && python -m venv --without-pip /opt/elman \
 && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['server'], sep='\n')" > /requirements.txt \
 && python -m pip --python /opt/elman/bin/python install --no-cache-dir --no-compile -r /requirements.txt \
 && rm -rf /opt/elman/lib/python*/site-packages/onnx/backend/test \
 && find /opt/elman/lib/python*/site-packages/plotly -mindepth 1 -type f \
    ! -path '*/plotly/__init__.py' ! -path '*/package_data/plotly.min.js' -delete \
 && rm -rf /opt/elman/lib/python*/site-packages/narwhals \
 && find /opt/elman/lib/python*/site-packages/simdjson -name '*.[ch]*' -delete \
 && find /opt/elman/lib/python*/site-packages/numpy -name tests -type d -prune -exec rm -rf {} + \
 && python -m compileall -q -j 0 /opt/elman/lib

COPY . /build/
RUN python -m pip --python /opt/elman/bin/python install --no-cache-dir --no-deps --compile /build

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Elman" \
      org.opencontainers.image.description="An inference server for recurrent networks" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0"
ENV PATH=/opt/elman/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ELMAN_HOST=0.0.0.0 \
    ELMAN_PORT=8000 \
    ELMAN_MODELS=/models \
    ELMAN_STORE_DIR=/state
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/readyz' % os.environ['ELMAN_PORT'], timeout=4)"]
# A list, so that the server is the process that SIGTERM reaches.
ENTRYPOINT ["elman", "serve"]
RUN groupadd --gid 10001 elman \
 && useradd --uid 10001 --gid elman --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin elman \
 && install --directory --owner 10001 --group 10001 /state
COPY --from=build /opt/elman /opt/elman
COPY models/store /models
VOLUME /state
USER 10001:10001
