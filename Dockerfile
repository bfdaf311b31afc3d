# The images of the operator, the worker, and the order generator that tests and the demo use.
# cargo builds the programs outside, on Debian 12; `make images` prepares the context and builds every target:
#   bin/  the programs, stripped
#   lib/  the shared libraries that they need and the base lacks
# Nothing is written at run time: a read-only root file system is enough.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

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
