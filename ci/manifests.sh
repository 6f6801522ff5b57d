#!/usr/bin/env bash
# configs/kubernetes against the schemas of Kubernetes, without a cluster: the oldest version that the manifests are for, and
# the newest that is known. Unknown fields are errors. And the alert rules by Prometheus' own promtool (of the PATH, or what PROMTOOL
# names; Debian's is in `prometheus`); without one they are left out.
#
# What they say about the program is checked by the tests (server/tests/it/manifests.rs). Needs python3 with venv, and PyPI or its
# mirror: the schemas are in a package, which is installed in a folder that is deleted at the end. Takes half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

validate="kubernetes-validate==1.37.0"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "$validate"

oldest="$(sed -n 's/^# arena-echo on Kubernetes \([0-9.]*\) or later:.*/\1/p' configs/kubernetes/arena-echo.yaml)"
[[ -n "$oldest" ]] || { echo "ci/manifests.sh: configs/kubernetes/arena-echo.yaml names no version" >&2; exit 1; }
for version in "$oldest" "${validate##*=}"; do
    "$scratch/venv/bin/kubernetes-validate" --strict --kubernetes-version "$version" configs/kubernetes/*.yaml
done

promtool="${PROMTOOL:-promtool}"
if command -v "$promtool" >/dev/null; then
    "$promtool" check rules configs/prometheus-alerts.yaml
else
    echo "left out: the alert rules, because there is no $promtool" >&2
fi
