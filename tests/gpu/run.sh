#!/usr/bin/env bash
# What an NVIDIA GPU does with the project, in at most 8 minutes; by hand, from the project's root:
#   tests/gpu/run.sh FILE.json [BUNDLE]
# FILE.json gets every figure, and for what could not be tried the reason. BUNDLE: with fp32, fp16,
# int8-qdq and mixed models; without one, an untrained model of the shipped size in fp32 and fp16.
# Needs torch with CUDA, the extras `train` and `export`, and for the engines onnxruntime-gpu,
# tensorrt-rtx-cu13 and cuda-bindings.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec timeout 480 python3 -m tests.gpu.check "$@"
