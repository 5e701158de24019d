# For a host of NVIDIA GPUs with its driver and container toolkit, the same environment as `make` gives. From the repository's directory:
#   docker build -f docker/gpu.Dockerfile -t asvit-gpu . && docker run --gpus all asvit-gpu doctor
FROM python:3.11-slim-bookworm

WORKDIR /opt/asvit-tf
COPY requirements-gpu.lock .
RUN pip install --no-cache-dir --constraint requirements-gpu.lock setuptools setuptools-scm wheel \
    && pip install --no-cache-dir --no-build-isolation --no-deps --requirement requirements-gpu.lock
COPY . .
RUN pip install --no-cache-dir --no-build-isolation --no-deps --editable .
ENTRYPOINT ["asvit"]
