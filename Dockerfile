# One image for every service; compose.yaml gives each its command.
FROM python:3.12-slim AS build
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /opt/mayfly && /opt/mayfly/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY chassis chassis
COPY broker_config broker_config
COPY services services
COPY runtimes runtimes
COPY sdk sdk
RUN pip install --no-cache-dir hatchling \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels . \
    && /opt/mayfly/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.12-slim
COPY --from=build /opt/mayfly /opt/mayfly
ENV PATH=/opt/mayfly/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --system --uid 1000 --create-home mayfly && install -d -o mayfly /data
USER mayfly
WORKDIR /data
CMD ["mayfly", "version"]
