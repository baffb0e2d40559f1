# The service: `docker build --file docker/service.Dockerfile --tag armoire .` at the root of the repository.
# EXTRA is the extra of pyproject.toml that is installed, from its lock: cpu, cuda (asks for nothing but NVIDIA's driver
# and container toolkit: CUDA and cuDNN come with onnxruntime-gpu), either with -traces (and OpenTelemetry's packages), or
# bench (no server, but `armoire bench`).
# The base is renewed by `make base-digest`. A package index of your own: --build-arg PIP_INDEX_URL=...
ARG BASE_IMAGE=python:3.12-slim@sha256:7a8b475003c4fe15a2cd4e55e5cfc2f3560bdc9333d624f24cdd6d4340fd7a17

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

FROM build AS wheel
WORKDIR /source
COPY docker/requirements-build.txt docker/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --only-binary :all: --requirement docker/requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN ["python", "-m", "hatchling", "build", "--target", "wheel", "--directory", "/wheel"]

FROM build AS packages
ARG EXTRA=cpu
COPY docker/requirements-${EXTRA}.txt /requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/armoire \
 && pip --python /opt/armoire install --no-compile --require-hashes --only-binary :all: --requirement /requirements.txt
# Out goes what no service runs: tests, what only compilers read, the workshops of onnxruntime and NumPy, Pillow's AVIF
# and fonts (the service opens PNG and JPEG alone). CUDA's headers are read by kernels that cuDNN generates for attention and RMS
# norms alone, and looked for in a toolkit (CUDA_HOME, /usr/local/cuda), never beside the libraries: here they are in vain.
# unchecked-hash: neither a look at the source at each start, nor a recompilation where a copy has changed its time.
RUN find /opt/armoire/lib -depth \( \
        -type d -name tests \
        -o -type f -regex '.*\.\(a\|h\|pxd\|pyi\|pyx\)' \
        -o -type d -regex '.*/onnxruntime/\(datasets\|quantization\|tools\|transformers\)' \
        -o -type d -path '*/numpy/f2py' \
        -o -type f -regex '.*/\(PIL/_\(avif\|imagingft\)\.\|pillow\.libs/lib\(avif\|brotli\|freetype\|harfbuzz\)\).*' \
    \) -exec rm -r {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/armoire/lib

# What is in the image, in CycloneDX, listed by a virtual environment that stays here.
FROM build AS sbom
WORKDIR /source
COPY docker/requirements-sbom.txt docker/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/sbom \
 && pip --python /opt/sbom install --no-compile --require-hashes --only-binary :all: --requirement docker/requirements-sbom.txt
COPY --from=packages /opt/armoire /opt/armoire
COPY pyproject.toml README.md LICENSE ./
COPY docker/sbom.py docker/
COPY service/armoire/models service/armoire/models
RUN /opt/sbom/bin/cyclonedx-py environment --gather-license-texts --pyproject pyproject.toml \
        --output-file packages.json /opt/armoire/bin/python \
 && /opt/sbom/bin/python docker/sbom.py packages.json /armoire.cdx.json

FROM packages AS code
COPY --from=wheel /wheel /wheel
RUN pip --python /opt/armoire install --no-cache-dir --no-compile --no-index --no-deps --root /code /wheel/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /code /code

FROM ${BASE_IMAGE}
# Official images bring the standard library uncompiled, and nobody may write it when it runs.
RUN pip uninstall --quiet --yes --root-user-action ignore pip \
 && rm -r "$(python -c 'import ensurepip; print(*ensurepip.__path__)')" \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(curses|dbm|distutils|idlelib|lib2to3|pydoc_data|site-packages|sqlite3|tkinter|turtledemo|unittest|wsgiref|xmlrpc)/' "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
COPY --from=packages /opt/armoire /opt/armoire
COPY --from=code /code /
COPY --from=sbom /armoire.cdx.json /opt/armoire/share/armoire.cdx.json

ENV PATH=/opt/armoire/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    ARMOIRE_LISTEN=0.0.0.0:50051 \
    ARMOIRE_METRICS_LISTEN=0.0.0.0:9464
EXPOSE 50051 9464
USER 65532:65532
# The server is process 1: it handles SIGTERM, SIGINT and SIGHUP itself and starts no process that could be orphaned.
ENTRYPOINT ["armoire"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["armoire", "health", "--timeout", "4"]

ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="armoire" \
      org.opencontainers.image.description="Serves the latent space of variational autoencoders over gRPC" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
