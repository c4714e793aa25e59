/* The waist: one system call a function, done right. Every function returns >= 0 or -errno. */
#ifndef PASSFD_OS_H
#define PASSFD_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { OS_MAX_RIGHTS = 253 }; /* SCM_MAX_FD, unix(7) */

/* Must match KINDS in src/descriptor.ts. */
enum os_kind {
	OS_FILE, OS_DIRECTORY, OS_PIPE, OS_TTY, OS_TCP, OS_TCP_LISTENER, OS_UDP, OS_UNIX_STREAM, OS_UNIX_STREAM_LISTENER,
	OS_UNIX_DGRAM, OS_UNIX_SEQPACKET, OS_UNIX_SEQPACKET_LISTENER, OS_MEMFD, OS_EVENTFD, OS_EPOLL, OS_PIDFD, OS_DEVICE,
	OS_OTHER
};

enum { OS_IPV6_ONLY = 1, OS_REUSEPORT = 2 };

/* Descriptors that a read brought. */
struct os_rights {
	int32_t *fds; /* the caller's array */
	size_t capacity;
	size_t count;
	bool truncated; /* some were lost, by MSG_CTRUNC or for want of capacity */
};

/* Closes: whatever it returns, the number is not the caller's any more. */
int os_close(int fd);

/* Sets close-on-exec on the caller's descriptor, which stays the caller's. */
int os_set_cloexec(int fd);

/* The copy is the caller's, close-on-exec and never 0 to 2; `fd` is borrowed. */
int os_dup(int fd);

/* Both ends are the caller's, close-on-exec and blocking. */
int os_socketpair(int type, int32_t ends[2]);
int os_pipe(int32_t ends[2]);

/* The AF_UNIX socket is the caller's, close-on-exec and non-blocking. */
int os_socket(int type);

/* Borrows the socket. `name` is sun_path without its end NUL; mode < 0 leaves the mode of the file to the umask. */
int os_bind(int fd, const uint8_t *name, size_t length, int mode);

/* Borrows the socket. */
int os_listen(int fd, int backlog);

/* The connection is the caller's, close-on-exec and non-blocking; the listener is borrowed and made
 * non-blocking. */
int os_accept(int fd);

/* Borrows the socket. -EAGAIN: the backlog is full, and no event will tell when it is not. */
int os_connect(int fd, const uint8_t *name, size_t length);

/* The bound socket (TCP: listening) is the caller's, close-on-exec and non-blocking. */
int os_bind_inet(bool udp, const char *host, int port, int backlog, int flags);

/* Borrows; returns an os_kind. */
int os_kind(int fd);

/* Borrows; fills pid, uid, gid, n and n groups, and returns n. -ENOTCONN: the socket has no peer that it knows. */
int os_peer(int fd, int32_t *out, size_t length);

/* Each borrows. */
int os_pass_rights(int fd, bool on);
int os_send_buffer(int fd, int bytes);
int os_shutdown(int fd, int how);
int os_resize(int fd, int columns, int rows);
int os_lock(int fd, bool on);

/* RLIMIT_NOFILE, soft. */
int os_limit(void);

/* Borrows all: the peer gets copies. Returns the bytes accepted; after an error nothing has left. Never waits. */
int os_send(int fd, struct iovec *chunks, size_t chunk_count, const int32_t *fds, size_t fd_count);

/* What `rights` lists afterwards is the caller's, close-on-exec. Returns the bytes read. Never waits. */
int os_receive(int fd, struct iovec *chunks, size_t chunk_count, struct os_rights *rights);

#endif
