# One image for every service and for NATS; compose.yaml and deploy/kubernetes give each its command.
#
# BASE is any image with Python 3.11 or newer, its venv module, bash and mount. Where no package index is to
# be reached, fetch the wheels beforehand, with the BASE's version of Python, into a folder beside this file:
#   pip download -d wheels -r requirements-image.lock && pip download -d wheels hatchling
#   docker build --build-arg PIP_NO_INDEX=1 .
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ARG PIP_NO_INDEX=""
ENV PIP_FIND_LINKS=/build/wheels PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/mayfly
COPY requirements-image.lock wheel[s] wheels/
RUN tools/bin/pip --python /opt/mayfly/bin/python install --require-hashes -r wheels/requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY chassis chassis
COPY broker_config broker_config
COPY services services
COPY runtimes runtimes
COPY sdk sdk
RUN tools/bin/pip wheel --no-deps -w made . && tools/bin/pip --python /opt/mayfly/bin/python install --no-deps made/*.whl

FROM ${BASE}
COPY --from=build /opt/mayfly /opt/mayfly
COPY deploy/healthy deploy/worker /usr/local/bin/
ENV PATH=/opt/mayfly/bin:$PATH PYTHONUNBUFFERED=1
RUN install -d -o 1000 -g 1000 /data
USER 1000:1000
WORKDIR /data
CMD ["mayfly", "--help"]
