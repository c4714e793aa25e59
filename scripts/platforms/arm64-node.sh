#!/bin/sh
# Node of arm64 under qemu-user. /proc/self/exe is that file itself, which the kernel can't run here: so process.execPath becomes this script.
case "${NODE_OPTIONS-}" in
  *--require=/opt/arm64/*) ;;
  *) export NODE_OPTIONS="--require=/opt/arm64/exec-path.cjs ${NODE_OPTIONS-}" ;;
esac
exec /opt/arm64/qemu /opt/arm64/node "$@"
