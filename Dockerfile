# docker build -t r2vpo .                      without a GPU
# docker build -t r2vpo:gpu --target gpu .     for NVIDIA's container toolkit: docker run --gpus all ...
# docker run --rm -v "$PWD/runs:/work/runs" r2vpo control train --env Hopper-v5 --total-steps 300000
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
# A compiler for the compiled gradient step, EGL for films.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libegl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 MUJOCO_GL=egl
WORKDIR /opt/r2vpo
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY r2vpo r2vpo
COPY envs envs
COPY control control
COPY llm llm
WORKDIR /work
ENTRYPOINT ["r2vpo"]
CMD ["--help"]

FROM base AS gpu
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
# PyTorch's build for CUDA is the one of the default index, and brings CUDA along: the host needs the driver alone.
RUN pip install "/opt/r2vpo[control,llm,vllm]"

FROM base AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps --index-url "${TORCH_INDEX}" "$(grep '^torch==' /opt/r2vpo/constraints.txt)" \
    && pip install -c /opt/r2vpo/constraints.txt "/opt/r2vpo[control,llm]"
