#!/bin/sh
# Two upgrades in the middle of an animation: one that goes well, and one that does not.
#
#   examples/upgrade.sh          takes a minute; `hotshoe` must be on the PATH. It renders with the
#                                Blender that `hotshoe blender list` names first, or installs one
#
# A host of its own, in a folder of its own, renders examples/scenes/orbit.blend with version
# 1.0.0 of the renderer `draft`. While it does, 1.0.1 comes, is tried, and takes over; then
# 1.0.2, which cannot do every fifth frame. All frames are there in the end.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
blender=$(hotshoe blender list --json 2> /dev/null | sed -n '1s/.*"id":"\([^"]*\)".*/\1/p')
[ -n "$blender" ] || blender=$(hotshoe blender install)
work=$(mktemp -d)
export HOTSHOE_DATA="$work/data" HOTSHOE_SOCKET="$work/socket/host.sock"
mkdir "$work/renderers"
cp "$here/scenes/orbit.blend" "$work"

# Puts a version of draft into the folder of plugins, whole at once. $2 changes its source.
release() {
    cp -r "$here/draft-python" "$work/new"
    rm -rf "$work/new/hotshoe"
    cp -r "$here/../plugin-api/python/src/hotshoe" "$work/new/"
    sed -i "s/1\.0\.0/$1/" "$work/new/plugin.toml" "$work/new/main.py"
    sed -i "$2" "$work/new/main.py"
    mv "$work/new" "$work/renderers/draft-$1"
    echo "--- draft $1 is there"
}

# Waits until the job has so many frames.
frames() {
    while [ "$(ls "$work/out" 2>/dev/null | wc -l)" -lt "$1" ]; do sleep 0.1; done
}

release 1.0.0 ""
printf '[rollout]\nfirst = 1\nshare = 1.0\ntasks = 4\n' > "$work/config.toml"
hotshoe serve --plugins "$work/renderers" --config "$work/config.toml" --blender "$blender" 2> "$work/log" &
host=$!
trap 'kill $host 2> /dev/null; wait $host 2> /dev/null; rm -rf "$work"' EXIT
until hotshoe host status > /dev/null 2>&1; do sleep 0.1; done
hotshoe events --from 0 2> /dev/null | grep --line-buffered -E '"event":"(release_state|job_moved)"' | grep --line-buffered draft &

hotshoe submit "$work/orbit.blend" --frames 1-24 --renderer draft --out "$work/out" > /dev/null
frames 4
release 1.0.1 ""
frames 12
release 1.0.2 '/def render/a\        if hotshoe.frame_of(task) % 5 == 0: raise RuntimeError("not this one")'
hotshoe job watch
hotshoe plugin list --all
hotshoe job tasks | head -30
echo "--- $(ls "$work/out" | wc -l) of 24 frames"
