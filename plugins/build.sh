#!/usr/bin/env bash
# Builds the components that Hotshoe embeds: plugins/NAME/NAME.wasm from plugins/NAME/src.
#
#   plugins/build.sh [--check]
#
# With --check it changes nothing, and fails if a committed component is not what its source
# makes. The paths of this machine are taken out, so that any machine with the Rust of
# rust-toolchain.toml makes the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD cargo_home=${CARGO_HOME:-$HOME/.cargo}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/components}
export RUSTFLAGS="--remap-path-prefix=$root=/hotshoe --remap-path-prefix=$cargo_home=/cargo"

if [ ! -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2" ]; then
  rustup target add wasm32-wasip2
fi
for name in direct; do
  cargo build --quiet --locked --profile plugin --package "$name" --lib --target wasm32-wasip2
  built=$CARGO_TARGET_DIR/wasm32-wasip2/plugin/$name.wasm committed=plugins/$name/$name.wasm
  if [ "${1:-}" != --check ]; then
    cp "$built" "$committed"
  elif ! cmp "$built" "$committed"; then
    echo "$committed is not what plugins/$name/src makes; plugins/build.sh makes it anew" >&2
    exit 1
  fi
done
