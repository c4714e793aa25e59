{
  'variables': { 'sanitize%': '<!(echo "$PASSFD_SANITIZE")' },
  'targets': [{
    'target_name': 'passfd',
    'sources': [
      'os.c', 'inet.c', 'edge.c', 'parent.c', 'process.c', 'message.c', 'memory.c', 'terminal.c', 'closer.c', 'held.c', 'watcher.c',
      'environment.c', 'argument.c', 'addon.c', 'addon_accept.c', 'addon_message.c', 'addon_memory.c'
    ],
    'defines': ['NAPI_VERSION=8', '_GNU_SOURCE'],
    'cflags': ['-std=c11', '-Wall', '-Wextra', '-Werror', '-O2', '-fvisibility=hidden', '-pthread'],
    # nodelete: the closer's threads outlive the worker thread whose end unloads the addon
    'ldflags': ['-Wl,-z,nodelete', '-pthread'],
    'conditions': [['sanitize==1', {
      'cflags': ['-g', '-fsanitize=address,undefined', '-fno-omit-frame-pointer', '-fno-sanitize-recover=undefined'],
      'ldflags': ['-fsanitize=address,undefined']
    }]]
  }]
}
