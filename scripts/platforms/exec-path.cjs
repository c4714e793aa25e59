// See arm64-node.sh
process.execPath = '/usr/local/bin/node'
process.argv[0] = process.execPath
