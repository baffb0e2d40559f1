# Training: `docker build --file docker/training.Dockerfile --tag armoire-training .` at the root of the repository.
# `docker run -v ./data:/data:ro -v ./runs:/runs armoire-training fit fashion --data /data --runs /runs` (user 65532 writes;
# with --read-only it wants --tmpfs /tmp, too).
# PyTorch is PyPI's, which on x86_64 brings CUDA (the job in deploy/ asks for GPUs) and some gigabytes; PyTorch's own index
# of builds for the CPU: --build-arg TORCH_INDEX_URL=... It is not locked: one lock could not hold both builds.
ARG BASE_IMAGE=python:3.12-slim@sha256:7a8b475003c4fe15a2cd4e55e5cfc2f3560bdc9333d624f24cdd6d4340fd7a17

FROM ${BASE_IMAGE} AS packages
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
# Dependency groups need pip 25.1.
RUN --mount=type=cache,target=/root/.cache/pip pip install --upgrade 'pip==26.3'
COPY pyproject.toml ./
# What is there satisfies the group: a build for the CPU calls itself torch==X+cpu. Versions are for pyproject.toml to say.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/training \
 && if [ -n "${TORCH_INDEX_URL}" ]; then \
        pip --python /opt/training install --no-compile --only-binary :all: --index-url "${TORCH_INDEX_URL}" "$(python -c \
            'import tomllib as t; print(*(n for n in t.load(open("pyproject.toml", "rb"))["dependency-groups"]["training"] if n.startswith("torch=")))')"; \
    fi \
 && pip --python /opt/training install --no-compile --only-binary :all: --group training \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/training/lib

FROM ${BASE_IMAGE}
RUN pip uninstall --quiet --yes --root-user-action ignore pip \
 && rm -r "$(python -c 'import ensurepip; print(*ensurepip.__path__)')" \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(idlelib|lib2to3|site-packages|tkinter|turtledemo)/' "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
COPY --from=packages /opt/training /opt/training
# Training is run from the root of the repository.
WORKDIR /app
COPY pyproject.toml LICENSE ./
COPY training training
RUN python -m compileall -q --invalidation-mode unchecked-hash training

ENV PATH=/opt/training/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]

ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
# For the record of each run and the card of each bundle: here is no repository that could be asked.
ENV ARMOIRE_REVISION="${REVISION}"
LABEL org.opencontainers.image.title="armoire-training" \
      org.opencontainers.image.description="Trains variational autoencoders and exports them for armoire" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
