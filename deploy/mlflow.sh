#!/usr/bin/env bash
# Start an MLflow server on the Ray head: runs and registry in FOLDER, artifacts in FOLDER or a bucket.
#
#   deploy/mlflow.sh FOLDER [ARTIFACTS [NAME...]]
#   deploy/mlflow.sh ~/mlflow s3://BUCKET/mlartifacts mlflow.internal
#
# The server has no password and listens on all addresses (LISTEN), since workers connect to it: keep
# its port (PORT, 5000) inside the security group. NAME: further host names that clients may use.
set -euo pipefail
folder=${1:?"Name the folder of the store: deploy/mlflow.sh FOLDER [ARTIFACTS [NAME...]]"}
artifacts=${2:-$folder/mlartifacts}
mkdir -p "$folder"

# --allowed-hosts replaces MLflow's defaults and is compared literally with host and port, so every
# name is listed with and without a port. A request with another host name gets HTTP 403.
allowed=""
for name in localhost 127.0.0.1 "$(hostname)" $(hostname -I) "${@:3}"; do
    allowed+="$name,$name:*,"
done

# One worker and no job runners, because MLflow's defaults take two cores at start.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server --host "${LISTEN:-0.0.0.0}" --port "${PORT:-5000}" --workers 1 \
    --backend-store-uri "sqlite:///$(realpath "$folder")/mlflow.db" \
    --artifacts-destination "$artifacts" --allowed-hosts "${allowed%,}"
