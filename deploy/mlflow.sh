#!/usr/bin/env bash
# Start an MLflow server on the Ray head: runs and registry in FOLDER, artifacts in FOLDER or a bucket.
#
#   deploy/mlflow.sh FOLDER [ARTIFACTS [NAME...]]
#   deploy/mlflow.sh ~/mlflow s3://BUCKET/mlartifacts
#   LISTEN=0.0.0.0 MLFLOW_AUTH_ADMIN_PASSWORD=... deploy/mlflow.sh ~/mlflow s3://BUCKET/mlartifacts mlflow.internal
#
# The server listens on this machine alone (127.0.0.1): a job's driver, the only process that logs, runs
# on the head. With another address in LISTEN it asks for a password: the user is admin
# (MLFLOW_AUTH_ADMIN_USERNAME), its first password is that of MLFLOW_AUTH_ADMIN_PASSWORD, and clients
# have both in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. This needs pip install 'mlflow[auth]'.
# The connection is not encrypted: keep the port (PORT, 5000) inside the security group all the same.
# NAME: further host names that clients may use.
set -euo pipefail
folder=${1:?"Name the folder of the store: deploy/mlflow.sh FOLDER [ARTIFACTS [NAME...]]"}
artifacts=${2:-$folder/mlartifacts}
listen=${LISTEN:-127.0.0.1}
app=()
case $listen in
127.0.0.1 | localhost | ::1) ;;
*)
    : "${MLFLOW_AUTH_ADMIN_PASSWORD:?"must be set where LISTEN is not 127.0.0.1: without a password whoever reaches the port reads and deletes all runs. Set it, or leave LISTEN out"}"
    app=(--app-name basic-auth)
    ;;
esac
umask 077
mkdir -p "$folder"
folder=$(realpath "$folder")
if [ ${#app[@]} -gt 0 ]; then
    # Users and their permissions lie beside the store. A name in the file may not shadow the password,
    # which MLflow reads from its environment.
    cat > "$folder/basic_auth.ini" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///$folder/basic_auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
INI
    export MLFLOW_AUTH_CONFIG_PATH="$folder/basic_auth.ini"
    # Signs the forms of the login page; another one after each start ends their sessions.
    export MLFLOW_FLASK_SERVER_SECRET_KEY=${MLFLOW_FLASK_SERVER_SECRET_KEY:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
fi

# --allowed-hosts replaces MLflow's defaults and is compared literally with host and port, so every
# name is listed with and without a port. A request with another host name gets HTTP 403.
allowed=""
for name in localhost 127.0.0.1 "$(hostname)" $(hostname -I) "${@:3}"; do
    allowed+="$name,$name:*,"
done

# One worker and no job runners, because MLflow's defaults take two cores at start.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server --host "$listen" --port "${PORT:-5000}" --workers 1 \
    --backend-store-uri "sqlite:///$folder/mlflow.db" \
    --artifacts-destination "$artifacts" --allowed-hosts "${allowed%,}" "${app[@]}"
