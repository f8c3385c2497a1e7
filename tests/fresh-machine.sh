#!/usr/bin/env bash
# Proves the commands of the README on machines that have nothing: an empty Debian in a chroot, with
# only what the README asks for, and Rust in each of the ways that people have it:
#
#   rustup      rustup alone, which installs the toolchain by itself
#   no-install  rustup that installs nothing by itself, with the toolchain and no target but its own
#   no-rustup   a Rust of a distribution or a container: the toolchain alone
#
# Needs root, debootstrap and the network; takes about 10 minutes a machine on 2 cores, and as long
# again for `cargo test`, which runs on the first one.
#
#   tests/fresh-machine.sh [--keep] [--no-tests] [rustup|no-install|no-rustup ...]
set -euo pipefail
keep= tests=yes machines=()
for argument; do
  case $argument in
    --keep) keep=yes ;;
    --no-tests) tests= ;;
    *) machines+=("$argument") ;;
  esac
done
[ "${#machines[@]}" -gt 0 ] || machines=(rustup no-install no-rustup)
here=$(cd "$(dirname "$0")/.." && pwd)
tools="python3,gcc,libc6-dev,git,ca-certificates"
version=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$here/rust-toolchain.toml")
toolchain=$(cd "$here" && rustc --print sysroot)
root=

finish() {
  [ -n "$root" ] || return 0
  for mount in proc dev/pts dev; do umount -l "$root/$mount" 2>/dev/null || true; done
  [ -n "$keep" ] || rm -rf "$root"
}
trap finish EXIT

inside() {
  chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb PATH=/cargo/bin:/rust/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    RUSTUP_HOME=/rustup CARGO_HOME=/cargo LANG=C.UTF-8 ${HTTPS_PROXY:+HTTPS_PROXY="$HTTPS_PROXY"} "${install[@]}" \
    bash -c "cd /hotshoe && $1"
}

# Copies the toolchain without the targets that it may have got.
bare_toolchain() {
  mkdir -p "$1"
  cp -a "$toolchain/." "$1/"
  find "$1/lib/rustlib" -maxdepth 1 -name 'wasm32-*' -exec rm -rf {} +
}

for machine in "${machines[@]}"; do
  root=$(mktemp -d) install=()
  echo "== $machine, in $root"
  debootstrap --variant=minbase --include="$tools" bookworm "$root" >"$root.log" 2>&1 || { tail "$root.log"; exit 1; }
  mkdir -p "$root"/{proc,dev,cargo/bin}
  mount -t proc proc "$root/proc"
  mount --bind /dev "$root/dev"
  mount --bind /dev/pts "$root/dev/pts"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  for file in /etc/apt/apt.conf.d/*proxy* /etc/pip.conf; do [ -e "$file" ] && cp "$file" "$root$file"; done
  case $machine in
    rustup) cp -a "${CARGO_HOME:-$HOME/.cargo}"/bin/. "$root/cargo/bin/" ;;
    no-install)
      cp -a "${CARGO_HOME:-$HOME/.cargo}"/bin/. "$root/cargo/bin/"
      bare_toolchain "$root/rustup/toolchains/$version-x86_64-unknown-linux-gnu"
      install=(RUSTUP_AUTO_INSTALL=0)
      ;;
    no-rustup) bare_toolchain "$root/rust" ;;
    *) echo "there is no machine '$machine'" >&2; exit 2 ;;
  esac
  git clone -q "$here" "$root/hotshoe"

  inside 'python3 --version; cc --version | head -1; ! ldconfig -p | grep -E "libX11|libGL"; ! command -v blender'
  echo "== $machine: the first picture"
  began=$SECONDS
  inside 'cargo run -- render examples/scenes/orbit.blend --frames 1-4'
  inside 'ls -l examples/scenes/orbit-frames; test "$(ls examples/scenes/orbit-frames | wc -l)" = 4'
  echo "== $machine: four pictures after $((SECONDS - began)) s"
  inside 'target/debug/hotshoe doctor'
  if [ -n "$tests" ] && [ "$machine" = rustup ]; then
    inside 'cargo test --workspace'
    echo "== $machine: both commands after $((SECONDS - began)) s"
  fi
  finish
  root=
done
echo "== all held"
