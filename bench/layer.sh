#!/bin/sh
# A layer forward and backward beside PyTorch, in alternating runs:  bench/layer.sh [ROUNDS]
#   PYTHONS="python3 /opt/venv/bin/python"   interpreters that have torch; each is a peer.  Empty: ours alone.
# Prints one line per run; the figures of bench/results/layer-*.md come from here.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-2}
bench=build/release/bench/bench_layer
for round in $(seq "$rounds"); do
    for shape in 1x256 4x256 4x1024; do
        $bench shape=$shape repeats=2
        for python in ${PYTHONS:-}; do "$python" bench/peers/torch_layer.py $shape 2 1; done
        $bench shape=$shape repeats=2 dtype=bfloat16
        $bench shape=$shape repeats=1 remat=full
    done
    $bench shape=1x2048 repeats=2
    $bench shape=1x2048 repeats=2 dtype=bfloat16
done
