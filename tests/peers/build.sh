#!/usr/bin/env bash
# Builds the plugin systems that Hotshoe is measured beside; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../target/peers
mkdir -p "$out"
# What is meant for Hotshoe's own build is not meant for these.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

echo "== go-plugin"
if ! command -v go >/dev/null && [ "$(id -u)" = 0 ]; then
  apt-get install -y -qq golang-go golang-github-hashicorp-go-plugin-dev golang-google-grpc-dev
fi
if command -v go >/dev/null; then
  GOPATH=/usr/share/gocode GO111MODULE=off GOCACHE=$out/gocache go build -o "$out/go-plugin" "$here/go-plugin/main.go"
else
  echo "there is no go; on Debian: apt-get install golang-go golang-github-hashicorp-go-plugin-dev golang-google-grpc-dev"
fi

echo "== tonic"
cargo build --release --manifest-path "$here/tonic/Cargo.toml" --target-dir "$out/cargo"
cp "$out/cargo/release/tonic-peer" "$out/tonic"

if [ "${1:-}" = --without-extism ]; then exit; fi
echo "== extism"
rustup target add wasm32-unknown-unknown
cargo build --release --manifest-path "$here/extism/plugin/Cargo.toml" --target wasm32-unknown-unknown --target-dir "$out/cargo"
cargo build --release --manifest-path "$here/extism/Cargo.toml" --target-dir "$out/cargo"
cp "$out/cargo/wasm32-unknown-unknown/release/extism_peer_plugin.wasm" "$out/extism.wasm"
cp "$out/cargo/release/extism-peer" "$out/extism"
