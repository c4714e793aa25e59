/* Bytes and descriptors in and out of sockets. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "kernel.h"
#include "os.h"
#include "result.h"

#ifndef SCM_PIDFD /* Linux 6.5 */
#define SCM_PIDFD 4
#endif

static void put_rights(struct msghdr *header, const int32_t *fds, size_t count)
{
	struct cmsghdr *control = header->msg_control;
	memset(control, 0, sizeof *control); /* for the kernel its length is as wide as a long, for musl it has padding */
	header->msg_controllen = CMSG_SPACE(count * sizeof *fds);
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(count * sizeof *fds);
	memcpy(CMSG_DATA(control), fds, count * sizeof *fds);
}

static int send_message(int fd, struct msghdr *header, const int32_t *fds, size_t fd_count)
{
	union { struct cmsghdr header; char bytes[CMSG_SPACE(OS_MAX_RIGHTS * sizeof(int))]; } control;
	if (fd_count > OS_MAX_RIGHTS)
		return -EINVAL;
	if (fd_count > 0) {
		header->msg_control = &control;
		put_rights(header, fds, fd_count);
	}
	ssize_t sent;
	do {
		sent = send_whole(fd, header, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	int result = outcome(sent);
	header->msg_control = NULL;
	return result;
}

/* Without a header and a list of chunks, which the kernel would copy: a tenth less for a small message. */
static int send_bytes(int fd, const struct iovec *chunk)
{
	ssize_t sent;
	do {
		sent = send(fd, chunk->iov_base, chunk->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	return outcome(sent);
}

int os_send(int fd, struct iovec *chunks, size_t chunk_count, const int32_t *fds, size_t fd_count)
{
	if (chunk_count == 1 && fd_count == 0)
		return send_bytes(fd, chunks);
	struct msghdr header = {.msg_iov = chunks, .msg_iovlen = chunk_count};
	bool empty = true;
	for (size_t i = 0; i < chunk_count; i++)
		empty = empty && chunks[i].iov_len == 0;
	/* A stream would drop the descriptors of an empty message and report success. */
	if (empty && fd_count > 0)
		return -EINVAL;
	return send_message(fd, &header, fds, fd_count);
}

int os_send_message(
	int fd, struct iovec *chunk, const int32_t *fds, size_t fd_count, const uint8_t *name, size_t name_length)
{
	struct sockaddr_un address;
	struct msghdr header = {.msg_iov = chunk, .msg_iovlen = 1};
	if (name_length > 0) {
		int size = os_unix_address(&address, name, name_length);
		if (size < 0)
			return size;
		header.msg_name = &address;
		header.msg_namelen = (socklen_t) size;
	}
	return send_message(fd, &header, fds, fd_count);
}

/* A negative number says why the kernel made no pidfd: it takes the place of one in the control message. */
static bool take_pidfd(const struct cmsghdr *control, struct os_message *message)
{
	if (message == NULL || message->has_pidfd || control->cmsg_len < CMSG_LEN(sizeof message->pidfd))
		return false;
	memcpy(&message->pidfd, CMSG_DATA(control), sizeof message->pidfd);
	return message->has_pidfd = true;
}

/* `message`, if it is not NULL, gets the pidfd; otherwise it is closed. */
static void take_rights(const struct cmsghdr *control, struct os_rights *rights, struct os_message *message)
{
	bool unwanted = control->cmsg_type == SCM_PIDFD;
	if (control->cmsg_level != SOL_SOCKET || (control->cmsg_type != SCM_RIGHTS && !unwanted))
		return;
	if (unwanted && take_pidfd(control, message))
		return;
	/* The length is the truth: padding may hold one descriptor more than was asked for. */
	for (size_t at = CMSG_LEN(0); at + sizeof(int) <= control->cmsg_len; at += sizeof(int)) {
		int fd;
		memcpy(&fd, (const char *) control + at, sizeof fd);
		if (!unwanted && rights->count < rights->capacity) {
			rights->fds[rights->count++] = fd;
			continue;
		}
		rights->truncated = rights->truncated || !unwanted;
		if (fd >= 0) /* a pidfd that could not be made is a negative number */
			os_close(fd);
	}
}

/* Credentials, pidfds and security labels (a page at most) come first and would crowd the rights out. */
union control {
	struct cmsghdr header;
	char bytes[2 * CMSG_SPACE(OS_MAX_RIGHTS * sizeof(int)) + 6144];
};

static ssize_t receive(int fd, struct msghdr *header, const struct msghdr *wanted, int flags)
{
	ssize_t received;
	do {
		*header = *wanted; /* the call before has overwritten lengths */
		received = recvmsg(fd, header, flags | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (received < 0 && errno == EINTR);
	return received < 0 ? -errno : received;
}

static void take_all_rights(struct msghdr *header, struct os_rights *rights, struct os_message *message)
{
	rights->count = 0;
	/* With MSG_CTRUNC those that did fit are installed, and ours to close. */
	rights->truncated = (header->msg_flags & MSG_CTRUNC) != 0;
	for (struct cmsghdr *each = CMSG_FIRSTHDR(header); each != NULL; each = CMSG_NXTHDR(header, each))
		take_rights(each, rights, message);
}

int os_receive(int fd, struct iovec *chunks, size_t chunk_count, struct os_rights *rights)
{
	union control control;
	struct msghdr header, wanted = {
		.msg_iov = chunks, .msg_iovlen = chunk_count, .msg_control = &control, .msg_controllen = sizeof control
	};
	rights->count = 0;
	rights->truncated = false;
	ssize_t received = receive(fd, &header, &wanted, 0);
	if (received >= 0)
		take_all_rights(&header, rights, NULL);
	return (int) received;
}

/* Whether descriptors wait anywhere in the stream: peeking looks past the bytes asked for, until it meets some (Linux to 6.18). */
static int rights_wait(int fd)
{
	uint8_t byte;
	struct iovec chunk = {.iov_base = &byte, .iov_len = 1};
	struct msghdr header, wanted = {.msg_iov = &chunk, .msg_iovlen = 1};
	/* Without room none is installed; MSG_CTRUNC says that there are some. */
	ssize_t peeked = receive(fd, &header, &wanted, MSG_PEEK);
	return peeked < 0 ? (int) peeked : (header.msg_flags & MSG_CTRUNC) != 0;
}

/*
 * Plain bytes merge in front of the one that descriptors came with, and nothing tells afterwards which one that was. So
 * what stands before descriptors is read byte by byte, unless it is more than a short message.
 */
int os_receive_placed(int fd, uint8_t *bytes, size_t length, struct os_rights *rights, size_t *place)
{
	rights->count = 0;
	rights->truncated = false;
	*place = 0;
	struct iovec chunk = {.iov_base = bytes, .iov_len = length};
	int pending = os_pending(fd), waiting = pending > 0 ? rights_wait(fd) : 0;
	if (waiting < 0)
		return waiting;
	/* No more than what was there: those that have come since may have descriptors. One byte asks for the end, or an error. */
	size_t known = pending > 0 ? (size_t) pending : 1;
	if (waiting == 0 && known < length)
		chunk.iov_len = known;
	if (waiting == 0)
		return os_receive(fd, &chunk, 1, rights);
	size_t done = 0;
	while (done < length && done < OS_PLACED && rights->count == 0 && !rights->truncated) {
		chunk = (struct iovec) {.iov_base = bytes + done, .iov_len = 1};
		int received = os_receive(fd, &chunk, 1, rights);
		if (received <= 0)
			return done > 0 ? (int) done : received;
		*place = done;
		done += (size_t) received;
	}
	if (rights->count > 0 || rights->truncated || done == length)
		return (int) done;
	chunk = (struct iovec) {.iov_base = bytes + done, .iov_len = length - done};
	int received = os_receive(fd, &chunk, 1, rights);
	*place = done;
	return received <= 0 ? (int) done : (int) done + received;
}

int os_receive_message(
	int fd, struct iovec *chunk, struct os_message *message, struct os_rights *rights, bool wants_pidfd)
{
	union control control;
	struct sockaddr_un address;
	struct msghdr header, wanted = {
		.msg_iov = chunk, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control,
		.msg_name = &address, .msg_namelen = sizeof address
	};
	rights->count = 0;
	rights->truncated = false;
	*message = (struct os_message) {0};
	ssize_t received = receive(fd, &header, &wanted, MSG_TRUNC); /* then it is the size of the datagram, also of a longer one */
	if (received < 0)
		return (int) received;
	message->size = (size_t) received;
	take_all_rights(&header, rights, wants_pidfd ? message : NULL);
	message->cut = (header.msg_flags & MSG_TRUNC) != 0;
	if (header.msg_namelen > 0)
		message->name_length = (size_t) os_copy_name(&address, header.msg_namelen, message->name, sizeof message->name);
	for (struct cmsghdr *each = CMSG_FIRSTHDR(&header); each != NULL; each = CMSG_NXTHDR(&header, each)) {
		struct ucred sender;
		if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_CREDENTIALS || each->cmsg_len < CMSG_LEN(sizeof sender))
			continue;
		memcpy(&sender, CMSG_DATA(each), sizeof sender);
		message->credentials = true;
		message->pid = sender.pid;
		message->uid = (int32_t) sender.uid;
		message->gid = (int32_t) sender.gid;
	}
	return (int) (message->size < chunk->iov_len ? message->size : chunk->iov_len);
}

int os_next_size(int fd)
{
	ssize_t size;
	do {
		/* Without room for control messages no descriptor is installed */
		size = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	} while (size < 0 && errno == EINTR);
	return outcome(size);
}

int os_peek(int fd, uint8_t *bytes, size_t length)
{
	/* A stream would answer as at its end. */
	if (length == 0)
		return -EINVAL;
	ssize_t peeked;
	do {
		/* Without room for control messages no descriptor is installed (each peek would install all of them anew). */
		peeked = recv(fd, bytes, length, MSG_PEEK | MSG_DONTWAIT);
	} while (peeked < 0 && errno == EINTR);
	return outcome(peeked);
}
