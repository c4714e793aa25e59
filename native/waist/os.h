/* The waist: one system call a function, done right. Every function returns >= 0 or -errno. */
#ifndef PASSFD_OS_H
#define PASSFD_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <sys/un.h>

enum { OS_MAX_RIGHTS = 253 }; /* SCM_MAX_FD, unix(7) */

/* Must match KINDS in src/descriptor/kind.ts. */
enum os_kind {
	OS_FILE, OS_DIRECTORY, OS_PIPE, OS_TTY, OS_TCP, OS_TCP_LISTENER, OS_UDP, OS_UNIX_STREAM, OS_UNIX_STREAM_LISTENER,
	OS_UNIX_DGRAM, OS_UNIX_SEQPACKET, OS_UNIX_SEQPACKET_LISTENER, OS_MEMFD, OS_EVENTFD, OS_EPOLL, OS_PIDFD, OS_DEVICE,
	OS_OTHER
};

/* Of os_bind_inet. LATER: once it listens, so that it does only if nobody else listens there, sharing the port or not. */
enum { OS_IPV6_ONLY = 1, OS_REUSEPORT = 2, OS_REUSEPORT_LATER = 4 };

/* Descriptors that a read brought. */
struct os_rights {
	int32_t *fds; /* the caller's array */
	size_t capacity;
	size_t count;
	bool truncated; /* some were lost, by MSG_CTRUNC or for want of capacity */
};

/* What else recvmsg(2) told of a datagram or packet. */
struct os_message {
	bool cut; /* it was longer than the room for it, and the rest is gone */
	bool credentials; /* the next three are known */
	int32_t pid, uid, gid;
	bool has_pidfd; /* the next one is there */
	int32_t pidfd; /* the sender's, the caller's to close; -errno: the kernel could not make it */
	size_t name_length; /* of the sender's address; 0 if it has none */
	uint8_t name[sizeof ((struct sockaddr_un *) 0)->sun_path];
};

/* Closes: whatever it returns, the number is not the caller's any more. */
int os_close(int fd);

/* Closes `count` numbers from `first` on, all of which are the caller's. Returns how many were open. */
int os_close_range(int first, size_t count);

/*
 * Whether closing can't wait for anything: /dev/null and its like. A pipe's close takes its lock, which is held by whoever writes to it from
 * memory that doesn't come (userfaultfd(2), a file on FUSE); that of anything that can be polled takes those of the epolls it is in.
 */
bool os_closes_at_once(int fd);

/* Sets close-on-exec on the caller's descriptor, which stays the caller's. */
int os_set_cloexec(int fd);

/* The copy is the caller's, close-on-exec and never 0 to 2; `fd` is borrowed. */
int os_dup(int fd);

/* Both ends are the caller's, close-on-exec and blocking. */
int os_socketpair(int type, int32_t ends[2]);
int os_pipe(int32_t ends[2]);

/* The AF_UNIX socket is the caller's, close-on-exec and non-blocking. */
int os_socket(int type);

/* A process's pidfd, the caller's. */
int os_pidfd(int pid);
/* The same of the process at the other end of a connected AF_UNIX socket (SO_PEERPIDFD, Linux 6.5). */
int os_peer_pidfd(int fd);

/* Returns the length of the address. `name` is sun_path without its end NUL; an abstract one begins with its NUL. */
int os_unix_address(struct sockaddr_un *address, const uint8_t *name, size_t length);

/* The reverse: returns the length of the name. */
int os_copy_name(const struct sockaddr_un *address, size_t size, uint8_t *name, size_t capacity);

/* Borrows the socket. `name` is sun_path without its end NUL; mode < 0 leaves the mode of the file to the umask. */
int os_bind(int fd, const uint8_t *name, size_t length, int mode);

/* Borrows the socket. */
int os_listen(int fd, int backlog);

/* The connection is the caller's, close-on-exec and non-blocking; the listener is borrowed and made
 * non-blocking. */
int os_accept(int fd);

/*
 * Accepts the waiting connections, at most `most`, into `fds`; the caller owns them. Returns how many, and 0 if none waits. Returns an error
 * only if it has accepted none. `addresses`, if not NULL, gets OS_ADDRESS bytes for each: the length of the peer's address as text (0 if it
 * is no internet address), then the text.
 */
enum { OS_ADDRESS = 64 };
int os_accept_many(int fd, int32_t *fds, size_t most, uint8_t *addresses);

/*
 * Borrows a listener, and closes its queue for new connections, for all processes that share it and for ever. Connections in the queue, and
 * clients that have got a SYN-ACK, can still be accepted. A new TCP client gets no answer until the socket is closed. For a path connect(2)
 * fails with ECONNREFUSED, and accept(2) with EINVAL when the queue is empty.
 */
int os_close_queue(int fd);

/* Borrows a listener; counts the TCP handshakes to its port that have begun and not ended. -errno: the kernel does not say (sock_diag(7)). */
int os_handshakes(int fd);

/*
 * Borrows a listener; counts the connections in its queue (TCP: TCP_INFO, tcp(7); Unix: sock_diag(7)). -EAGAIN: accept(2) would give one, but
 * the kernel does not say how many wait: a Unix listener of another network namespace, for example.
 */
int os_queued(int fd);

/* Borrows the socket. -EAGAIN: the backlog is full, and no event will tell when it is not. */
int os_connect(int fd, const uint8_t *name, size_t length);

/* The bound socket (TCP: listening) is the caller's, close-on-exec and non-blocking. */
int os_bind_inet(bool udp, const char *host, int port, int backlog, int flags);
/* Lets sockets of this user that use SO_REUSEPORT bind to the place of this one. Of several that listen there all need it. */
int os_share_port(int fd);

/* An address of the internet. IPv4 in IPv6 form is IPv4. */
struct os_inet_name {
	int family; /* 4 or 6 */
	int port;
	size_t length;
	uint8_t text[OS_ADDRESS]; /* with the interface, if it is of one link: fe80::1%eth0 */
};

/* Borrows; its own address or its peer's. -EAFNOSUPPORT: it isn't of the internet. */
int os_inet_name(int fd, bool peer, struct os_inet_name *name);

/* Borrows; returns an os_kind. */
int os_kind(int fd);

/* Borrows; fills pid, uid, gid, n and n groups, and returns n. -ENOTCONN: the socket has no peer that it knows. */
int os_peer(int fd, int32_t *out, size_t length);

/* Each borrows. */
int os_pass_rights(int fd, bool on);
int os_send_buffer(int fd, int bytes);
int os_pass_credentials(int fd, bool on);
int os_pass_pidfd(int fd, bool on); /* SO_PASSPIDFD, Linux 6.5; -ENOPROTOOPT before */
int os_name(int fd, bool peer, uint8_t *name, size_t capacity); /* returns its length */
int os_pending(int fd); /* bytes to be read; of the first one, if they are datagrams */
int os_next_size(int fd); /* bytes of the first datagram, which stays where it is; -EAGAIN: there is none (os_pending says 0 then) */
int os_shutdown(int fd, int how);
int os_resize(int fd, int columns, int rows);
int os_terminal_side(int fd); /* 1: a pseudoterminal's master; 0: a terminal */
int os_status_flags(int fd); /* O_RDWR, O_NONBLOCK, … (open(2)) */
int os_nonblocking(int fd, bool on); /* for all who share the open file description */

/*
 * A non-blocking open file description of the caller's own, close-on-exec, of the same pipe or terminal; `fd` is borrowed. 0: there is
 * no need of it, os_read and os_write never wait on this one.
 */
int os_reopen(int fd);
int os_lock(int fd, bool on);

/* RLIMIT_NOFILE, soft. */
int os_limit(void);

/* Borrows all: the peer gets copies. Returns the bytes accepted; after an error nothing has left. Never waits. */
int os_send(int fd, struct iovec *chunks, size_t chunk_count, const int32_t *fds, size_t fd_count);

/* What `rights` lists afterwards is the caller's, close-on-exec. Returns the bytes read. Never waits. */
int os_receive(int fd, struct iovec *chunks, size_t chunk_count, struct os_rights *rights);

/*
 * The same for a raw stream: `place` is the byte that the descriptors came with. It is exact if less than OS_PLACED bytes stand
 * before them; else they came with that byte or a later one of this read. For streams on which SO_PASSCRED is off.
 */
enum { OS_PLACED = 1024 };
int os_receive_placed(int fd, uint8_t *bytes, size_t length, struct os_rights *rights, size_t *place);

/* One datagram or packet. Borrows all; name_length 0: to the connected peer. An empty one may carry descriptors. */
int os_send_message(
	int fd, struct iovec *chunk, const int32_t *fds, size_t fd_count, const uint8_t *name, size_t name_length);

/*
 * One datagram or packet: what `rights` lists afterwards is the caller's, close-on-exec, and so is the pidfd, which is closed unless
 * it is wanted. Returns the bytes read.
 */
int os_receive_message(
	int fd, struct iovec *chunk, struct os_message *message, struct os_rights *rights, bool wants_pidfd);

/* Borrows; leaves the bytes where they are, and descriptors that came with them, too. Returns how many it copied; 0: the end. */
int os_peek(int fd, uint8_t *bytes, size_t length);

/*
 * A set of sockets that tells of each only what is new: when more bytes, the end or an error have come, not that some are still there
 * (EPOLLET, epoll(7)). It is the caller's, an epoll, close-on-exec and non-blocking.
 */
int os_edge_set(void);
int os_edge_add(int set, int fd);
int os_edge_remove(int set, int fd); /* before `fd` is closed: what others hold too would stay in it */
/* Returns how many there are; ~fd if the peer sends no more. Those that don't fit come with the next call. */
int os_edge_ready(int set, int32_t *fds, size_t most);

/*
 * Kills this process `seconds` after the end of process `parent`, its parent, unless it has ended before, even if it runs in an endless
 * loop. 1: the parent has ended, the time runs already. To be called by the main thread.
 */
int os_die_after_parent(int parent, int seconds);

/* Sends a signal to the process of a borrowed pidfd, never to another one that has its number by now (0: only asks). -ESRCH: it was collected. */
int os_signal(int pidfd, int number);

/* 1: the kernel makes orphans this process's children (PID 1 of its namespace, or PR_SET_CHILD_SUBREAPER), and the caller is its main thread. */
int os_is_reaper(void);
/* The pid of a child of this thread that has ended and waits to be collected; it goes on waiting. 0: there is none. */
int os_ended_child(void);
/* Collects that child. Returns its pid; 0: it has not ended, or was collected already. */
int os_collect(int pid);

/* Pipes and terminals: never waits, whether or not O_NONBLOCK is set. -EOPNOTSUPP: it must be set to write to this one. */
int os_read(int fd, uint8_t *bytes, size_t length);
int os_write(int fd, const uint8_t *bytes, size_t length);

/* Anonymous memory of that size, the caller's: close-on-exec, sealable, not executable (memfd_create(2)). */
int os_memfd(const char *name, int64_t size);

/* Borrow. F_SEAL_… (fcntl(2)); -EINVAL: this file can't be sealed. */
int os_seals(int fd);
int os_seal(int fd, int seals);

/*
 * Maps [0, size) so that no later access can fail. -EPERM: the file is not sealed against shrinking. -ENODEV: it isn't plain memory (huge
 * pages may run out). -ERANGE: it is smaller. `writable`: all mappings share the writes. Otherwise writes stay private, because a write
 * to a read-only page would kill the process. The mapping does not need `fd` afterwards.
 */
int os_map(int fd, size_t size, bool writable, void **address);
void os_unmap(void *address, size_t size);

#endif
