#!/bin/sh
# Renders each variant of overlays/ into one file that `kubectl apply -f` takes, and its way off the
# nodes (uninstall/ in the overlay) into another: VARIANT.yaml and VARIANT-uninstall.yaml.
#
#   conf/kubernetes/render.sh [DIRECTORY]        conf/kubernetes/rendered by default
#
# Run it after a change of what is beside it, or of conf/prometheus/alerts.yaml: the rules of
# components/prometheus-rule are made from that. Needs kubectl 1.21 or newer, and no cluster.
set -eu
case ${1:-} in
-*) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; exit 2 ;;
esac
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
rendered=${1:-$here/rendered}
mkdir -p -- "$rendered"

# Writes standard input into the file $1, unless what makes it fails: then the old file stays.
trap 'rm -f -- "$rendered/.new"' EXIT
trap 'exit 1' HUP INT TERM
render() {
    printf '# Made by conf/kubernetes/render.sh of %s: change that.\n' "$1" >"$rendered/.new"
    kubectl kustomize "$here/$1" >>"$rendered/.new"
    mv -- "$rendered/.new" "$rendered/$2.yaml"
}

{
    cat <<'HEAD'
# Made by conf/kubernetes/render.sh of conf/prometheus/alerts.yaml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ovs-flow-gc
  namespace: ovs-flow-gc
  labels:
    app.kubernetes.io/name: ovs-flow-gc
spec:
HEAD
    sed -n '/^groups:/,$s/^\(.\)/  \1/p' "$here/../prometheus/alerts.yaml"
} >"$rendered/.new"
mv -- "$rendered/.new" "$here/components/prometheus-rule/prometheusrule.yaml"

for overlay in "$here"/overlays/*/; do
    variant=$(basename -- "$overlay")
    render "overlays/$variant" "$variant"
    render "overlays/$variant/uninstall" "$variant-uninstall"
done
