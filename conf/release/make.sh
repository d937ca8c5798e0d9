#!/bin/sh
# Makes what a release consists of, from this checkout: a tarball, a .deb, an .rpm, the image as an
# OCI archive, a bill of materials and the checksums of them all. The same commit and the same
# toolchain make the same bytes.
#
#   conf/release/make.sh [--target TRIPLE] [--out DIR] [--no-image]
#                        [--plugin FILE] [--daemon FILE] [--manual FILE]
#
#   --target TRIPLE   x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu; this machine's by
#                     default. Another one needs its toolchain: cargo's, a linker and a static libc
#   --out DIR         ./dist by default; it is made anew
#   --no-image        without the image (buildah)
#   --plugin FILE     this binary instead of building one
#   --daemon FILE     likewise
#   --manual FILE     likewise; the program that writes man pages and completions
#
# Needs cargo, and of Debian buildah, jq, protobuf-compiler and rpm (tests/run.sh --setup). Where it
# is not run by root, the image is built with sudo.
set -eu
umask 022
export LC_ALL=C TZ=UTC
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
here=$repository/conf/release
name=ovs-flow-gc

die() { printf 'make.sh: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*"; }

target='' out=$repository/dist image=yes plugin='' daemon='' manual=''
while [ $# -gt 0 ]; do
    case $1 in
    --target | --out | --plugin | --daemon | --manual)
        [ $# -gt 1 ] && [ -n "$2" ] || die "$1 needs a value"
        case $1 in
        --target) target=$2 ;;
        --out) out=$2 ;;
        --plugin) plugin=$2 ;;
        --daemon) daemon=$2 ;;
        --manual) manual=$2 ;;
        esac
        shift 2
        ;;
    --no-image) image=no && shift ;;
    -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    *) die "no such option: $1 (--help lists them)" ;;
    esac
done
for tool in dpkg-deb rpmbuild jq; do
    command -v $tool >/dev/null || die "no $tool: apt-get install --no-install-recommends dpkg rpm jq"
done
host=$(rustc -vV | sed -n 's/^host: //p')
case ${target:=$host} in
x86_64-unknown-linux-gnu) machine=x86_64 debian=amd64 ;;
aarch64-unknown-linux-gnu) machine=aarch64 debian=arm64 ;;
*) die "no packages for $target" ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)
[ -n "${SOURCE_DATE_EPOCH:-}" ] || SOURCE_DATE_EPOCH=$(git -C "$repository" log -1 --format=%ct) ||
    die "git does not say when the commit was made: set SOURCE_DATE_EPOCH"
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 1' HUP INT TERM
rm -rf -- "$out"
mkdir -p "$out"
out=$(CDPATH='' cd -- "$out" && pwd)

# Of the directory $1 the other names as a tar file, without a clock, an owner or an order of this
# machine's.
pack() {
    directory=$1
    shift
    tar -C "$directory" --sort=name --owner=0 --group=0 --numeric-owner --format=gnu \
        --mtime="@$SOURCE_DATE_EPOCH" -c -- "$@"
}

say "binaries for $target"
build() {
    built=${CARGO_TARGET_DIR:-$repository/target}/$target/release/$1
    # shellcheck disable=SC2086 # a list of words
    "$repository/conf/image/release.sh" --target "$target" --bin "$1" $2 >&2 || die "cargo built no $1"
    printf '%s\n' "$built"
}
[ -n "$plugin" ] || plugin=$(build "$name" '')
[ -n "$daemon" ] || daemon=$(build "${name}d" '--features daemon')
mkdir "$work/bin" "$work/texts"
install -m 755 -- "$plugin" "$work/bin/$name"
install -m 755 -- "$daemon" "$work/bin/${name}d"
for binary in "$work"/bin/*; do
    headers=$(readelf --wide --program-headers "$binary") || die "$binary is no ELF binary"
    case $headers in *INTERP*) die "$binary is not static" ;; esac
done

say "man pages, completions, bill of materials, licences"
if [ -n "$manual" ]; then
    env -i "$manual" "$work/texts"
else
    (cd "$repository" && cargo run --quiet --locked --features manual --bin "$name-manual" -- "$work/texts")
fi
gzip -9n "$work"/texts/man/*
"$repository/conf/image/sbom.sh" >"$work/texts/sbom.json"
"$here/licences.sh" "$work/texts/sbom.json" >"$work/texts/THIRD-PARTY.txt"

# What goes with the binaries in every form: into the directory $1.
put_documents() {
    for path in README.md README.ko.md CHANGELOG.md SECURITY.md LICENSE docs conf/README.md conf/conflists \
        conf/grafana conf/kubernetes conf/prometheus; do
        mkdir -p "$1/$(dirname "$path")"
        cp -R -- "$repository/$path" "$1/$path"
    done
    cp -- "$work/texts/THIRD-PARTY.txt" "$1"
    find "$1" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
}

say "tarball"
tree=$work/$name-$version-$machine
mkdir "$tree"
put_documents "$tree"
cp -R -- "$repository/conf/systemd" "$tree/conf"
cp -R -- "$work/texts/man" "$work/texts/completions" "$tree"
chmod -R u=rwX,go=rX "$tree"
install -m 755 -- "$work"/bin/* "$repository/install.sh" "$tree"
pack "$work" "$(basename "$tree")" | gzip -9n >"$out/$(basename "$tree").tar.gz"

# What both kinds of packages put on a node. The paths are the same on both, so that one text
# describes them.
say "the packages' files"
root=$work/root
mkdir -p "$root/opt/cni/bin" "$root/usr/sbin" "$root/usr/lib/systemd/system" "$root/etc/default" \
    "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions" \
    "$root/usr/share/fish/vendor_completions.d" "$root/usr/share/doc/$name"
# Where runtimes look for plugins, and where a shell looks for commands.
install -m 755 -- "$work/bin/$name" "$root/opt/cni/bin"
ln -s "../../opt/cni/bin/$name" "$root/usr/sbin/$name"
install -m 755 -- "$work/bin/${name}d" "$root/usr/sbin"
for unit in "$repository"/conf/systemd/*; do
    sed 's|=/usr/local/sbin/|=/usr/sbin/|' "$unit" >"$root/usr/lib/systemd/system/$(basename "$unit")"
done
install -m 644 -- "$here/package/default" "$root/etc/default/$name"
cp -- "$work"/texts/man/* "$root/usr/share/man/man1"
for shell in "$name" "${name}d"; do
    cp -- "$work/texts/completions/$shell.bash" "$root/usr/share/bash-completion/completions/$shell"
    cp -- "$work/texts/completions/$shell.fish" "$root/usr/share/fish/vendor_completions.d"
done
put_documents "$root/usr/share/doc/$name"
# $1 is where this distribution's zsh looks.
put_zsh() {
    mkdir -p "$root/usr/share/zsh/$1"
    install -m 644 -- "$work"/texts/completions/_* "$root/usr/share/zsh/$1"
}

say "deb"
put_zsh vendor-completions
mkdir "$root/DEBIAN"
for script in prerm postinst postrm; do
    install -m 755 -- "$here/package/$script" "$root/DEBIAN"
done
echo "/etc/default/$name" >"$root/DEBIAN/conffiles"
cp -- "$here/package/copyright" "$root/usr/share/doc/$name/copyright"
cat >"$root/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $debian
Maintainer: The $name authors
Section: net
Priority: optional
Suggests: openvswitch-switch
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Description: keeps dead pods' OpenFlow entries out of Open vSwitch
$(sed 's/^/ /' "$here/package/description")
CONTROL
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# One thread: the number of threads is in the bytes.
dpkg-deb --build --root-owner-group -Zxz --threads-max=1 "$root" "$out/${name}_${version}_$debian.deb" >/dev/null

say "rpm"
rm -r "$root/DEBIAN" "$root/usr/share/zsh" "$root/usr/share/doc/$name/copyright"
put_zsh site-functions
rpmbuild -bb --quiet --target "$machine-linux" \
    --define "release_version $version" --define "release_tree $root" \
    --define "release_package $here/package" \
    --define "_topdir $work/rpm" --define "_rpmdir $work/rpms" --define "_dbpath $work/rpmdb" \
    --define "_buildhost release" --define "use_source_date_epoch_as_buildtime 1" \
    --define "clamp_mtime_to_source_date_epoch 1" --define "_binary_payload w9.gzdio" \
    --define "_build_id_links none" --define "__os_install_post %{nil}" \
    "$here/package/$name.spec" >"$work/rpm.log" 2>&1 || { cat "$work/rpm.log" >&2; die "rpmbuild failed"; }
cp -- "$work"/rpms/*/*.rpm "$out"

if [ "$image" = yes ]; then
    say "image"
    as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo --preserve-env=SOURCE_DATE_EPOCH "$@"; fi; }
    # With the name that the manifests have.
    as_root "$repository/conf/image/build.sh" --arch "$debian" --plugin "$plugin" --daemon "$daemon" \
        --archive "$work/image.tar"
    # The archive as buildah writes it has the time of now.
    mkdir "$work/image"
    tar -xf "$work/image.tar" -C "$work/image"
    chmod -R u=rwX,go=rX "$work/image"
    pack "$work/image" blobs index.json oci-layout >"$out/$name-$version-$machine.oci.tar"
fi

cp -- "$work/texts/sbom.json" "$out/$name-$version-$machine.cdx.json"
(cd "$out" && sha256sum -- * >"$work/sums" && mv -- "$work/sums" "SHA256SUMS-$machine")
say "$out"
cat "$out/SHA256SUMS-$machine"
