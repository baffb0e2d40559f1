# No Grafana: grafana.py says what it does.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner 472 --group 0 /var/lib/grafana
COPY grafana.py /
USER 472:0
VOLUME /var/lib/grafana
ENTRYPOINT ["python", "-u", "/grafana.py"]
