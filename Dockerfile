# The server with the shipped models: no torch, no compiler, no pip in its environment, not root.
#
#   docker build --tag elman .
#   docker run --rm --publish 8000:8000 --volume elman-state:/state elman
#   docker run --rm --publish 8000:8000 --volume "$PWD/my-models:/models:ro" elman

# docs/operating.md says how to name the base image by its digest.
#
# In a container the server listens on every address, and whoever reaches its port may call it: publish the port on
# 127.0.0.1, or set ELMAN_API_KEYS.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build

# What the server needs, in a layer that only a change of the lock renews. The packages' own tests stay out, and the
# source of simdjson.
COPY requirements-image.txt ./
RUN python -m venv --without-pip /opt/elman \
 && python -m pip --python /opt/elman/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes \
    -r requirements-image.txt \
 && rm -rf /opt/elman/lib/python*/site-packages/onnx/backend/test \
 && find /opt/elman/lib/python*/site-packages/simdjson -name '*.[ch]*' -delete \
 && find /opt/elman/lib/python*/site-packages/numpy -name tests -type d -prune -exec rm -rf {} + \
 && python -m compileall -q -j 0 /opt/elman/lib

# Elman itself, and the software bill of materials of what is installed then. The tool that writes it stays in this stage.
# pip takes the versions of the build tools from one of the two variables, by its own version.
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY service/elman service/elman
RUN PIP_CONSTRAINT=/build/constraints.txt PIP_BUILD_CONSTRAINT=/build/constraints.txt \
    python -m pip --python /opt/elman/bin/python install --no-cache-dir --no-deps --compile . \
 && python -m venv --without-pip /opt/tools \
 && python -m pip --python /opt/tools/bin/python install --no-cache-dir --no-compile -c constraints.txt cyclonedx-bom \
 && /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/elman/sbom.cdx.json \
    /opt/elman/bin/python

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Elman" \
      org.opencontainers.image.description="An inference server for recurrent networks" \
      org.opencontainers.image.source="https://github.com/elman-server/elman" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/elman/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ELMAN_HOST=0.0.0.0 \
    ELMAN_ALLOW_ANYONE=true \
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
