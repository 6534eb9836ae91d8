# A stand-in for the images of other programs that docker-compose.yml names, where they cannot be pulled.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends haproxy >/dev/null \
 && install --directory --owner 999 --group 999 /data \
 && install --directory --owner 65534 --group 65534 /prometheus
# From the machine that builds it, which has them for other tests.
COPY prometheus valkey-server /usr/bin/
