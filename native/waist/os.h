/* The waist: one function for each system call. Every function returns >= 0 or -errno. */
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

/* SO_REUSEPORT in os_bind_inet. LATER: set after listen(2), which then fails if any other socket listens there, with that option or not. */
enum { OS_IPV6_ONLY = 1, OS_REUSEPORT = 2, OS_REUSEPORT_LATER = 4 };

/* Descriptors that a read brought. */
struct os_rights {
	int32_t *fds; /* the caller's array */
	size_t capacity;
	size_t count;
	bool truncated; /* some were lost, by MSG_CTRUNC or because the array was too small */
};

/* What else recvmsg(2) reports about a datagram or packet. */
struct os_message {
	bool cut; /* it was longer than the buffer, and the kernel has dropped the rest */
	size_t size; /* in bytes, with what was dropped */
	bool credentials; /* the next three are known */
	int32_t pid, uid, gid;
	bool has_pidfd; /* the next one is there */
	int32_t pidfd; /* of the sender; the caller closes it. -errno: the kernel could not make it */
	size_t name_length; /* of the sender's address; 0 if it has none */
	uint8_t name[sizeof ((struct sockaddr_un *) 0)->sun_path];
};

/* Closes the number, which the caller does not own any more, whatever it returns. */
int os_close(int fd);

/* Closes `count` numbers from `first` on, all of which are the caller's. Returns how many were open. */
int os_close_range(int first, size_t count);

/*
 * Whether closing can't block: /dev/null and its like. A pipe's close takes the pipe's lock, and a writer whose memory never arrives
 * (userfaultfd(2), a file on FUSE) holds that lock. The close of a file that can be polled takes the locks of its epoll sets.
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

/* Returns a process's pidfd, which the caller owns. */
int os_pidfd(int pid);
/* Returns the pidfd of the process at the other end of a connected AF_UNIX socket (SO_PEERPIDFD, Linux 6.5). */
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

/* A netlink socket for questions to sock_diag(7), the caller's; close-on-exec and non-blocking. */
int os_diagnosis(void);

/* Borrows a listener; counts the TCP handshakes to its port that have begun and not ended. -errno: the kernel does not say (sock_diag(7)). */
int os_handshakes(int fd);

/*
 * Borrows a listener; counts the connections in its queue (TCP: TCP_INFO, tcp(7); Unix: sock_diag(7)). -EAGAIN: accept(2) would give one, but
 * the kernel does not say how many wait: a Unix listener of another network namespace, for example.
 */
int os_queued(int fd);

/*
 * Borrows a TCP connection; gives the time since its last byte was sent or has arrived, or since its handshake if there was none, in ms (TCP_INFO,
 * tcp(7)). The kernel counts in ticks, of at most 10 ms. -EOPNOTSUPP: it is no TCP socket.
 */
int os_quiet(int fd);

/* Borrows the socket. -EAGAIN: the backlog is full, and no event reports when there is room. */
int os_connect(int fd, const uint8_t *name, size_t length);

/* The bound socket (TCP: listening) is the caller's, close-on-exec and non-blocking. */
int os_bind_inet(bool udp, const char *host, int port, int backlog, int flags);
/* Lets sockets of this user with SO_REUSEPORT bind to this socket's address. All sockets that listen there need the option. */
int os_share_port(int fd);

/* An IPv4 or IPv6 address. IPv4 in IPv6 form counts as IPv4. */
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
/* Borrows; 1: a pipe of pipe(2), 0: something else, also a FIFO of a file system. Never waits for the server of one. */
int os_is_pipe(int fd);

/* Borrows; fills pid, uid, gid, n and n groups, and returns n. -ENOTCONN: the socket has no peer that it knows. */
int os_peer(int fd, int32_t *out, size_t length);

/* Each borrows. */
int os_pass_rights(int fd, bool on);
int os_send_buffer(int fd, int bytes);
int os_pass_credentials(int fd, bool on);
int os_pass_pidfd(int fd, bool on); /* SO_PASSPIDFD, Linux 6.5; -ENOPROTOOPT before */
int os_name(int fd, bool peer, uint8_t *name, size_t capacity); /* returns its length */
int os_pending(int fd); /* bytes to be read; of the first one, if they are datagrams */
int os_next_size(int fd); /* bytes of the first datagram, which stays queued; -EAGAIN: none waits (os_pending returns 0 then) */
int os_shutdown(int fd, int how);
int os_resize(int fd, int columns, int rows);
int os_terminal_side(int fd); /* 1: a pseudoterminal's master; 0: a terminal */
int os_status_flags(int fd); /* O_RDWR, O_NONBLOCK, … (open(2)) */
int os_nonblocking(int fd, bool on); /* for all who share the open file description */

/*
 * Opens the same pipe or terminal again, non-blocking and close-on-exec, for the caller to own; `fd` is borrowed. 0: not needed, because
 * os_read and os_write never block on this one.
 */
int os_reopen(int fd);
int os_lock(int fd, bool on);

/* RLIMIT_NOFILE, soft; the usual 1024 if it can not be read. Never fails. */
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
 * Makes an edge-triggered epoll set (EPOLLET, epoll(7)): it reports new bytes, an end or an error of a socket, but not bytes that still wait.
 * The caller owns it; it is close-on-exec and non-blocking.
 */
int os_edge_set(void);
int os_edge_add(int set, int fd);
int os_edge_add_end(int set, int fd); /* reports only that the other end has hung up: neither bytes nor a half-closed connection */
int os_edge_remove(int set, int fd); /* before `fd` is closed: an open file that others hold would stay in the set */
/* Returns how many there are; ~fd if the peer sends no more. Those that don't fit come with the next call. */
int os_edge_ready(int set, int32_t *fds, size_t most);

/*
 * Ends this process `seconds` after the end of its parent, process `parent`, even if it runs in an endless loop. 1: the parent has ended, and
 * the time runs already. The main thread calls it.
 */
int os_die_after_parent(int parent, int seconds);

/* Sends a signal to the process of a borrowed pidfd, never to a later process with the same pid (0: only checks). -ESRCH: it was reaped. */
int os_signal(int pidfd, int number);

/* 1: the kernel makes orphans this process's children (PID 1 of its namespace, or PR_SET_CHILD_SUBREAPER), and the caller is its main thread. */
int os_is_reaper(void);
/* Returns the pid of an ended child of this thread, without reaping it. 0: there is none. */
int os_ended_child(void);
/* Reaps that child. Returns its pid; 0: it has not ended, or was reaped already. */
int os_collect(int pid);

/* Pipes and terminals: never blocks, with or without O_NONBLOCK. -EOPNOTSUPP: this one needs O_NONBLOCK to be written. */
int os_read(int fd, uint8_t *bytes, size_t length);
int os_write(int fd, const uint8_t *bytes, size_t length);

/* Anonymous memory of that size, the caller's: close-on-exec, sealable, not executable (memfd_create(2)). */
int os_memfd(const char *name, int64_t size);

/* Borrows `fd`. Node's own fchmod() is forbidden under its permission model, also for a process's own memory. */
int os_chmod(int fd, int mode);
/* They borrow `fd`. F_SEAL_… (fcntl(2)); -EINVAL: this file can't be sealed. */
int os_seals(int fd);
int os_seal(int fd, int seals);

/*
 * Maps [0, size) so that no later access can fail. -EPERM: the file is not sealed against shrinking. -ENODEV: it isn't plain memory (huge
 * pages may run out). -ERANGE: it is smaller. `writable`: all mappings share the writes. Otherwise writes stay private, because a write
 * to a read-only page would kill the process. The mapping does not need `fd` afterwards.
 */
int os_map(int fd, size_t size, bool writable, void **address);
void os_unmap(void *address, size_t size);

/*
 * Prepares `block`, memory of malloc(), for bytes that are about to fill it. glibc returns the free end of its heap to the kernel, and then each
 * page of the next block costs a page fault. A small allocation above the block, the pin, prevents that. Returns the pin that the caller then
 * owns in place of `pin`; NULL: none. From 32 MiB on the block gets huge pages instead.
 */
void *os_prepare_heap(void *pin, void *block, size_t length);
/* Frees the pin, if there is one: glibc returns what is free at the end of its heap by then. */
void os_release_heap(void *pin);

#endif
