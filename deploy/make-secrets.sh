#!/bin/sh
# Make the secrets of compose.yaml in the folder secrets, once; what is there already stays.
set -eu
cd -- "$(dirname -- "$0")"
# Compose mounts these files as they are, and the users in the containers are others than you: so the
# files can be read by all, and the folder can be entered by you alone.
mkdir -p secrets
chmod 0700 secrets
make() {
    [ -s "secrets/$1" ] || { cat >"secrets/$1.new" && mv "secrets/$1.new" "secrets/$1"; }
    chmod 0644 "secrets/$1"
}
random() { head -c 32 /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_'; }
random | make database_password
printf 'postgresql://keyosk:%s@postgresql/keyosk' "$(cat secrets/database_password)" | make database_url
head -c 32 /dev/urandom | base64 | make secret_key
random | make admin_password
echo "The admin's password is in secrets/admin_password."
