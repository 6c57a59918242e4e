# The command line, without a GPU and without a server of its own: init, plan, build, check, publish; sweep and load against
# a Triton that runs elsewhere. EXTRAS are those of pyproject.toml: docker build --build-arg EXTRAS=torch,s3 -t tritonsmith .
#
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" tritonsmith check model_repository
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=""
WORKDIR /src
COPY . .
RUN python -m venv /opt/tritonsmith
RUN /opt/tritonsmith/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 tritonsmith
COPY --from=build /opt/tritonsmith /opt/tritonsmith
# A user given by number has no home here. To keep the cache, mount a volume there.
ENV PATH=/opt/tritonsmith/bin:$PATH TRITONSMITH_CACHE=/tmp/tritonsmith-cache
USER tritonsmith
WORKDIR /work
ENTRYPOINT ["tritonsmith"]
CMD ["--help"]
