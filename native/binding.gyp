{
  'variables': { 'sanitize%': '<!(echo "$PASSFD_SANITIZE")' },
  'targets': [{
    'target_name': 'passfd',
    'sources': [
      'waist/os.c', 'waist/unix.c', 'waist/kind.c', 'waist/inet.c', 'waist/edge.c', 'waist/parent.c', 'waist/process.c', 'waist/message.c',
      'waist/memory.c', 'waist/heap.c', 'waist/terminal.c', 'waist/closer.c', 'waist/held.c',
      'glue/environment.c', 'glue/closed_batches.c', 'glue/spinning.c', 'glue/turns.c', 'glue/inner_epoll.c', 'glue/watcher.c', 'glue/lifecycle.c',
      'glue/argument.c', 'glue/function.c', 'glue/addon.c', 'glue/addon_own.c', 'glue/addon_socket.c', 'glue/addon_watch.c',
      'glue/addon_accept.c', 'glue/addon_message.c', 'glue/addon_memory.c'
    ],
    'defines': ['NAPI_VERSION=8', '_GNU_SOURCE'],
    'cflags': ['-std=c11', '-Wall', '-Wextra', '-Werror', '-O2', '-fvisibility=hidden', '-pthread'],
    # nodelete: the closer's threads outlive the worker thread whose end unloads the addon
    'ldflags': ['-Wl,-z,nodelete', '-pthread'],
    'conditions': [['sanitize!=""', {
      'cflags': ['-g', '-fsanitize=<(sanitize)', '-fno-omit-frame-pointer', '-fno-sanitize-recover=undefined'],
      'ldflags': ['-fsanitize=<(sanitize)']
    }]]
  }]
}
