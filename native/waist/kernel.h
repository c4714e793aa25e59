/*
 * System calls for which not every C library has a function that does: musl has none for some (1.2.3), and a sendmsg() of its own limits. Those are
 * made by their numbers there. glibc's functions are taken where it has them, so that a library that is loaded before can stand in for them.
 */
#ifndef PASSFD_KERNEL_H
#define PASSFD_KERNEL_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef STATX_TYPE
#include <linux/stat.h>
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

#ifdef __GLIBC__
#define by_libc(function, ...) function(__VA_ARGS__)
#else
#define by_libc(function, ...) syscall(SYS_##function, __VA_ARGS__)
#endif

/* musl's own copies the control message, and has room for 252 descriptors, so 253 were ENOMEM. Padding in `header` and its control message must be 0. */
static inline ssize_t send_whole(int fd, const struct msghdr *header, int flags)
{
	return by_libc(sendmsg, fd, header, flags);
}

/* Fills in type and device of what is open, without asking the server of a network file, which may not answer. */
static inline int type_of(int fd, struct statx *status)
{
	struct stat other;
	if (by_libc(statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, status) == 0)
		return 0;
	/* Filters of containers that are older than the call refuse it (seccomp(2)). EINVAL: what glibc has in its place lacks these flags */
	if (errno != ENOSYS && errno != EPERM && errno != EINVAL)
		return -errno;
	if (fstat(fd, &other) < 0)
		return -errno;
	*status = (struct statx) {
		.stx_mode = (uint16_t) other.st_mode, .stx_dev_major = major(other.st_dev), .stx_dev_minor = minor(other.st_dev),
		.stx_rdev_major = major(other.st_rdev), .stx_rdev_minor = minor(other.st_rdev)
	};
	return 0;
}

/* At the position of the file: -1, which the system call takes in two halves. */
#ifdef __GLIBC__
#define OWN_POSITION -1
#else
#define OWN_POSITION -1L, -1L
#endif

/* -1 and EAGAIN where it would wait. */
static inline ssize_t read_now(int fd, uint8_t *bytes, size_t length)
{
	struct iovec chunk = {.iov_base = bytes, .iov_len = length};
	return by_libc(preadv2, fd, &chunk, 1, OWN_POSITION, RWF_NOWAIT);
}

static inline ssize_t write_now(int fd, const uint8_t *bytes, size_t length)
{
	struct iovec chunk = {.iov_base = (uint8_t *) bytes, .iov_len = length};
	return by_libc(pwritev2, fd, &chunk, 1, OWN_POSITION, RWF_NOWAIT);
}

#endif
