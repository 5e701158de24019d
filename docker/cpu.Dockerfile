# For a machine without accelerators, the same environment as `make` gives. From the repository's directory:
#   docker build -f docker/cpu.Dockerfile -t asvit-cpu . && docker run asvit-cpu describe small
FROM python:3.11-slim-bookworm

WORKDIR /opt/asvit-tf
COPY requirements.lock .
RUN pip install --no-cache-dir --constraint requirements.lock setuptools setuptools-scm wheel \
    && pip install --no-cache-dir --no-build-isolation --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-build-isolation --no-deps --editable .
ENTRYPOINT ["asvit"]
