# wiper on a CPU: docker build -t wiper . && docker run --rm --network none -v "$PWD:/work:ro" wiper scan model.onnx --clean images
FROM python:3.13-slim
COPY constraints-cpu.txt pyproject.toml setup.py README.md LICENSE /source/
COPY formats /source/formats
COPY triggers /source/triggers
COPY wiper_cli /source/wiper_cli
COPY examples /source/examples
# torch's own index has the small CPU build; elsewhere the constraints pick it where it is to be had.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c /source/constraints-cpu.txt /source \
    && useradd --create-home --uid 10001 wiper
USER wiper
WORKDIR /work
ENTRYPOINT ["wiper"]
CMD ["--help"]
