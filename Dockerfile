# Images of the operator, the worker, and the order generator for tests and the demo.
# The programs are built outside, with cargo on Debian 12; `make images` prepares the context and builds every target:
#   bin/  the programs without debug information
#   lib/  the shared libraries that are not in the base image
# The programs write no files, so the root file system can be read-only.
# The tag `nonroot`, pinned: `docker manifest inspect --verbose gcr.io/distroless/cc-debian12:nonroot` prints its digest.
ARG BASE=gcr.io/distroless/cc-debian12@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f

FROM ${BASE} AS base
COPY lib/ /usr/lib/
USER 65532:65532

FROM base AS worker
COPY bin/worker /usr/local/bin/worker
ENTRYPOINT ["/usr/local/bin/worker"]

FROM base AS orders
COPY bin/orders /usr/local/bin/orders
ENTRYPOINT ["/usr/local/bin/orders"]

FROM base AS operator
COPY bin/operator /usr/local/bin/operator
ENTRYPOINT ["/usr/local/bin/operator"]
