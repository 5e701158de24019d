# For a TPU VM, the same environment as `make` gives. From the repository's directory:
#   docker build -f docker/tpu.Dockerfile -t asvit-tpu . && docker run --privileged --net=host asvit-tpu doctor
FROM python:3.11-slim-bookworm

WORKDIR /opt/asvit-tf
COPY requirements-tpu.lock .
RUN pip install --no-cache-dir --constraint requirements-tpu.lock setuptools setuptools-scm wheel \
    && pip install --no-cache-dir --no-build-isolation --no-deps --requirement requirements-tpu.lock
COPY . .
RUN pip install --no-cache-dir --no-build-isolation --no-deps --editable .
ENTRYPOINT ["asvit"]
