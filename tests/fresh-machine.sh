#!/usr/bin/env bash
# Proves both commands of the README on a machine that has nothing: an empty
# Debian in a chroot, with only what the README asks for. Needs root, debootstrap
# and the network; takes about 20 minutes on 2 cores.
#
#   tests/fresh-machine.sh [--keep] [--no-tests] [FOLDER]
set -euo pipefail
keep= tests=yes root=
for argument; do
  case $argument in
    --keep) keep=yes ;;
    --no-tests) tests= ;;
    *) root=$argument ;;
  esac
done
root=${root:-$(mktemp -d)}
here=$(cd "$(dirname "$0")/.." && pwd)
tools="python3,gcc,libc6-dev,git,ca-certificates"

finish() {
  for mount in proc dev/pts dev; do umount -l "$root/$mount" 2>/dev/null || true; done
  [ -n "$keep" ] || rm -rf "$root"
}
trap finish EXIT

debootstrap --variant=minbase --include="$tools" bookworm "$root" >"$root.log" 2>&1 || { tail "$root.log"; exit 1; }
mkdir -p "$root"/{proc,dev,cargo/bin}
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount --bind /dev/pts "$root/dev/pts"
# rustup alone: the toolchain and its target come by rust-toolchain.toml.
cp -a "${CARGO_HOME:-$HOME/.cargo}"/bin/. "$root/cargo/bin/"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
for file in /etc/apt/apt.conf.d/*proxy* /etc/pip.conf; do [ -e "$file" ] && cp "$file" "$root$file"; done
git clone -q "$here" "$root/hotshoe"

inside() {
  chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb PATH=/cargo/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    RUSTUP_HOME=/rustup CARGO_HOME=/cargo LANG=C.UTF-8 ${HTTPS_PROXY:+HTTPS_PROXY="$HTTPS_PROXY"} \
    bash -c "cd /hotshoe && $1"
}

echo "== what is there"
inside 'python3 --version; cc --version | head -1; git --version; ! ldconfig -p | grep -E "libX11|libGL"; ! command -v blender'
echo "== cargo run"
inside 'cargo run --release -- render examples/scenes/orbit.blend --frames 1-4'
inside 'ls -l examples/scenes/orbit-frames; test "$(ls examples/scenes/orbit-frames | wc -l)" = 4'
inside 'target/release/hotshoe doctor'
if [ -n "$tests" ]; then
  echo "== cargo test"
  inside 'cargo test --workspace'
fi
echo "== all held"
