/* System calls that not every C library has a function for (musl), by their numbers; what they need of the kernel's headers. */
#ifndef PASSFD_KERNEL_H
#define PASSFD_KERNEL_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef STATX_TYPE
#include <linux/stat.h>
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

/* Fills in type and device of what is open, without asking the server of a network file, which may not answer. */
static inline int type_of(int fd, struct statx *status)
{
	return syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, status) < 0 ? -errno : 0;
}

/* At the file's own position (-1, in two halves where a long is short). -1 and errno: EAGAIN where it would wait. */
static inline ssize_t read_now(int fd, uint8_t *bytes, size_t length)
{
	struct iovec chunk = {.iov_base = bytes, .iov_len = length};
	return syscall(SYS_preadv2, fd, &chunk, 1UL, -1L, -1L, RWF_NOWAIT);
}

static inline ssize_t write_now(int fd, const uint8_t *bytes, size_t length)
{
	struct iovec chunk = {.iov_base = (uint8_t *) bytes, .iov_len = length};
	return syscall(SYS_pwritev2, fd, &chunk, 1UL, -1L, -1L, RWF_NOWAIT);
}

#endif
