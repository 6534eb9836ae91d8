#!/usr/bin/env bash
# The path of someone who is new, from a clean clone: to a first answer, a first session, and a model of their own served.
# Prints the seconds since the clone at each. Needs git, make, curl and python3; what it makes is removed at the end.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
port=8765
running=()

leave() {
  for one in "${running[@]}"; do kill "$one" 2>/dev/null || true; done
  wait
  rm -rf "$place"
}
trap leave EXIT

say() {
  local tenths=$(((${EPOCHREALTIME/./} - started) / 100000))
  printf '%4d.%d s  %s\n' $((tenths / 10)) $((tenths % 10)) "$1"
}

wait_for() { until curl -sf -o /dev/null "localhost:$1/readyz"; do sleep 0.1; done; }

started=${EPOCHREALTIME/./}
git clone -q "$repository" "$place/elman"
cd "$place/elman"
say "cloned"

make serve PORT=$port >"$place/serve.log" 2>&1 &
running+=($!)
wait_for $port
curl -sf localhost:$port/v1/models/names-gru/predict -d '{"sequence": "Lindqvist"}' | grep -q '"label"'
say "first answer: make serve, curl"

id=$(curl -sf -X POST localhost:$port/v1/models/names-gru/sessions | sed 's/.*"id": *"\([^"]*\)".*/\1/')
curl -sf "localhost:$port/v1/sessions/$id/steps" -d '{"sequence": "Lind", "at": 0}' | grep -q '"step": *4'
say "first session: made, and stepped"

make train >"$place/train.log" 2>&1
say "torch is there: make train"

cat >own.py <<'PYTHON'
import torch
from torch import nn

from elman import export


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


export(Tagger(), "my-models/tagger/1/model.onnx", example=torch.zeros(1, 5, 2), labels=["up", "down"])
PYTHON
.venv/bin/python own.py >"$place/export.log" 2>&1
.venv/bin/elman serve my-models --port $((port + 1)) >"$place/own.log" 2>&1 &
running+=($!)
wait_for $((port + 1))
curl -sf localhost:$((port + 1))/v1/models/tagger/predict -d '{"sequence": [[0.1, 0.2]]}' | grep -q '"up"\|"down"'
say "a model of one's own: exported, checked, served, asked"
