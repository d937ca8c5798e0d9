#!/bin/sh
# Builds the release binaries and, from them alone, the image; prints its size.
#
#   conf/image/build.sh [--tag NAME] [--plugin FILE] [--daemon FILE] [--arch NAME] [--archive FILE]
#
#   --tag NAME        by default the name that the manifests have (conf/kubernetes/components/image)
#   --plugin FILE     this binary instead of building one
#   --daemon FILE     likewise
#   --arch NAME       what the binaries are for, as Go calls it; this machine's by default
#   --archive FILE    write an OCI archive as well (`ctr -n k8s.io images import FILE`)
#
# A name without a registry gets localhost/ before it, as buildah has it: the kubelet's runtime knows
# an image by its whole name, and would look for a short one in a registry of its own choice.
#
# Needs buildah (Debian: apt-get install --no-install-recommends buildah), no network and, with the
# vfs driver and chroot isolation that it uses, no privileges beyond root's or a user namespace's.
set -eu
# Directories' modes are in the image.
umask 022
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
most=$((15 * 1024 * 1024))

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

tag='' plugin='' daemon='' arch='' archive=''
while [ $# -gt 0 ]; do
    case $1 in
    --tag | --plugin | --daemon | --arch | --archive)
        [ $# -gt 1 ] && [ -n "$2" ] || die "$1 needs a value"
        case $1 in
        --tag) tag=$2 ;;
        --plugin) plugin=$2 ;;
        --daemon) daemon=$2 ;;
        --arch) arch=$2 ;;
        --archive) archive=$2 ;;
        esac
        shift 2
        ;;
    -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    *) die "no such option: $1 (--help lists them)" ;;
    esac
done
named() { sed -n "s/^ *$1: *//p" "$repository/conf/kubernetes/components/image/kustomization.yaml"; }
[ -n "$tag" ] || tag=$(named newName):$(named newTag)
case $tag in */*) registry=${tag%%/*} ;; *) registry='' ;; esac
case $registry in localhost | *.* | *:*) ;; *) tag=localhost/$tag ;; esac
case ${tag##*/} in *:*) ;; *) tag=$tag:latest ;; esac
command -v buildah >/dev/null || die "no buildah: apt-get install --no-install-recommends buildah"

# Prints where cargo says that it put the binary $1, built with the options $2.
build() {
    # shellcheck disable=SC2086 # a list of words
    "$repository/conf/image/release.sh" --bin "$1" $2 --message-format=json-render-diagnostics |
        sed -n 's/.*"reason":"compiler-artifact".*"kind":\["bin"\].*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

context=$(mktemp -d)
trap 'rm -rf -- "$context"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$context/root/run" "$context/root/var"
ln -s ../run "$context/root/var/run"
# The plugin without the daemon's feature.
[ -n "$plugin" ] || plugin=$(build ovs-flow-gc '')
[ -f "$plugin" ] || die "no plugin: ${plugin:-cargo built none}"
install -m 755 -- "$plugin" "$context/root/ovs-flow-gc"
[ -n "$daemon" ] || daemon=$(build ovs-flow-gcd '--features daemon')
[ -f "$daemon" ] || die "no daemon: ${daemon:-cargo built none}"
install -m 755 -- "$daemon" "$context/root/ovs-flow-gcd"
# Nothing in the image to link against.
for binary in "$context"/root/ovs-flow-gc*; do
    headers=$(readelf --wide --program-headers "$binary") || die "$binary is no ELF binary"
    case $headers in *INTERP*) die "$binary is not static" ;; esac
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)

# The same files make the same image: no clock in it.
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || echo 0)}
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"
buildah bud --quiet --timestamp "$epoch" --build-arg VERSION="$version" \
    ${arch:+--arch "$arch"} --file "$repository/Containerfile" --tag "$tag" "$context/root" >/dev/null
if [ -n "$archive" ]; then
    buildah push --quiet "$tag" "oci-archive:$archive:$tag" >/dev/null
fi

# One layer, and this is it.
size=$(du -sb "$context/root" | cut -f1)
printf '%s: %s bytes\n' "$tag" "$size"
[ "$size" -le "$most" ] || die "$tag has more than $most bytes"
